"""A password that expires is asked for anew with each connection."""

from __future__ import annotations

from databricks_supervisor.ledger import SqlLedger


async def test_each_new_connection_asks_for_the_password(postgres_url: str) -> None:
    given: list[str] = []

    def password() -> str:
        given.append("secret")
        return f"token-{len(given)}"

    ledger = SqlLedger.from_psycopg(postgres_url, password=password)
    assert given == []
    assert await ledger.get_turn("t") is None
    assert len(given) == 1
    await ledger.aclose()
    assert await ledger.get_turn("t") is None
    assert len(given) == 2
    await ledger.aclose()
    assert "token" not in repr(ledger)
