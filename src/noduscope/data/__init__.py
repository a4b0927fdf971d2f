"""Data for training: LUNA16, LIDC-IDRI, implanted nodules, folds."""
