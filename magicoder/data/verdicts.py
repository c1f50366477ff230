"""The form of a row that goes no further."""

from typing import Any


def rejected(reason: str, row: dict[str, Any], evidence: Any) -> dict[str, Any]:
    """The row with the reason ahead of its keys and the evidence behind them; keys of its own so named give way."""
    kept = {key: value for key, value in row.items() if key not in ("reason", "evidence")}
    return {"reason": reason, **kept, "evidence": evidence}
