"""Budgets: how much a namespace, one of its functions or one of its keys may use up in a month."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from faas.model.usage import MB_MS_PER_GB_SECOND


class Scope(StrEnum):
    NAMESPACE = "namespace"
    FUNCTION = "function"
    KEY = "key"


class Unit(StrEnum):
    """What is counted. The values are the names of a budget's fields."""

    GB_SECONDS = "gb_seconds"
    AMOUNT = "amount"  # money, in the currency of the price book in force


class Budget(BaseModel):
    """At least one of ``gb_seconds`` and ``amount`` is set; whichever is reached first stops the calls."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Scope
    name: str = ""  # the function's name or the key's id; "" for the namespace
    gb_seconds: Decimal | None = Field(default=None, ge=0)
    amount: Decimal | None = Field(default=None, ge=0)

    @property
    def mb_ms(self) -> int | None:
        """``gb_seconds`` in the unit of all sums, rounded down."""
        return None if self.gb_seconds is None else int(self.gb_seconds * MB_MS_PER_GB_SECOND)


class Webhook(BaseModel):
    """Where warnings go: a POST for each, signed after the Standard Webhooks specification."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    secret: str  # "whsec_" and base64 of 24 to 64 bytes


class Budgets(BaseModel):
    """All that is said of one namespace's budgets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str
    budgets: tuple[Budget, ...] = ()
    webhook: Webhook | None = None
