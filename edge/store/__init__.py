"""What must outlive a power cut: the ledger, its file, its copies."""
