"""The OpenAPI document of the gateway."""

from twin import __version__

DOCUMENT: dict[str, object] = {
    "openapi": "3.1.0",
    "info": {"title": "Cognitive Twin gateway", "version": __version__},
    "paths": {},
}
