"""The triggers that make a table append-only: SQLite and PostgreSQL then refuse UPDATE and DELETE,
or UPDATE alone.

Used by migrations. They guard against mistakes, ours included; the owner of a database can always
drop them.
"""

FUNCTION = "twin_append_only"
UNCHANGED = "twin_never_changed"


def append_only(dialect: str, table: str) -> list[str]:
    """The statements that protect one table."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} BEGIN "
            f"SELECT RAISE(ABORT, '{table} is append-only'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    return [
        f"CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$",
        # Per statement: TRUNCATE has no rows, and an UPDATE of no row is a mistake as well.
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}()",
    ]


def never_changed(dialect: str, table: str) -> list[str]:
    """The statements that protect the rows of one table from change, not from removal."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN "
            f"SELECT RAISE(ABORT, '{table} is never changed'); END"
        ]
    return [
        f"CREATE OR REPLACE FUNCTION {UNCHANGED}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is never changed', TG_TABLE_NAME; END $$",
        f"CREATE TRIGGER {table}_never_changed BEFORE UPDATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {UNCHANGED}()",
    ]
