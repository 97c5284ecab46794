"""The store's schema as steps from one version to the next. Run by `twin.store.upgrade`."""
