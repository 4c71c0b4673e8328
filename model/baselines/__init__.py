"""Recommenders that GRU4Rec is compared with: one file each, one contract."""
