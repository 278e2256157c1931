"""What a fit looks at: the order of the images, and augmentation."""
