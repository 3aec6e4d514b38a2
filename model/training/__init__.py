"""How the weights are made: data, augmentation, features, fit, calibrate, evaluate."""
