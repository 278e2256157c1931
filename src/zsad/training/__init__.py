"""What makes training fast and varied: features kept on disk, augmentations."""
