"""From the ledger to the broker: one connection, verdicts until they are acknowledged, alarms."""
