"""The numbers of the check in `stain_celluscan.py`, fitted and written by `celluscan benchmark stain --write`.

`CENTRES` and `SCALES` standardize the features, in the order of `FEATURES`. `WEIGHTS` has a row for each standardized
feature, each square, and the constant; a column for each kind: cell, unstained, colours, structure.
"""

THRESHOLD = 0.15  # least probability of a stained cell
CENTRES = [
    0.0127,
    0.5459,
    0.1265,
    0.6544,
    0.5067,
    0.256,
    -0.0741,
    -0.1289,
    0.0305,
    0.0446,
    0.0703,
    0.3004,
    0.2725,
    -0.2847,
    -1.0237,
    3.905,
]
SCALES = [
    0.0261,
    0.6082,
    0.1681,
    0.7554,
    0.1792,
    0.1838,
    0.2584,
    0.3046,
    0.0515,
    0.1232,
    0.1576,
    0.3111,
    0.1314,
    0.7283,
    1.0798,
    1.2738,
]
WEIGHTS = [
    [-0.21, -0.896, 0.097, 1.01],  # brighter than the field
    [1.318, -1.547, 0.835, -0.605],  # strongest stain
    [-0.31, 0.729, 0.202, -0.62],  # stained share
    [1.332, 1.431, -1.463, -1.3],  # stain against absorption
    [0.385, -0.939, -0.389, 0.943],  # red in the stain
    [-0.328, -0.338, 0.295, 0.371],  # blue in the stain
    [-0.677, 0.205, 0.797, -0.325],  # red against green
    [-0.361, 0.04, 0.342, -0.02],  # blue against green
    [-1.05, -0.164, 0.07, 1.143],  # spread of colours
    [-0.124, -0.905, 0.842, 0.187],  # greenish share
    [-0.553, -0.73, 0.974, 0.309],  # orange share
    [0.953, -2.973, 0.752, 1.267],  # detail
    [-0.454, -1.041, 0.239, 1.256],  # edges
    [-1.193, 0.456, 0.142, 0.596],  # border against middle
    [-1.482, 1.372, 0.233, -0.123],  # detail of field against cells
    [-0.457, -1.348, -0.046, 1.85],  # number of colours
    [0.268, 0.026, 0.021, -0.315],  # brighter than the field, squared
    [-0.231, 0.151, -0.219, 0.299],  # strongest stain, squared
    [0.148, -0.263, 0.038, 0.077],  # stained share, squared
    [-0.049, -0.459, 0.341, 0.167],  # stain against absorption, squared
    [-0.56, -0.129, 0.262, 0.428],  # red in the stain, squared
    [-1.036, -0.229, 0.583, 0.682],  # blue in the stain, squared
    [0.0, 0.117, 0.016, -0.133],  # red against green, squared
    [0.404, -0.14, 0.057, -0.321],  # blue against green, squared
    [0.303, 0.158, -0.108, -0.353],  # spread of colours, squared
    [0.081, 0.253, -0.307, -0.027],  # greenish share, squared
    [-0.016, 0.128, -0.16, 0.048],  # orange share, squared
    [0.001, 1.896, -3.07, 1.173],  # detail, squared
    [-0.021, 0.123, -0.204, 0.101],  # edges, squared
    [0.226, -0.674, 0.677, -0.229],  # border against middle, squared
    [-0.073, -0.459, 0.019, 0.513],  # detail of field against cells, squared
    [-0.65, 0.182, -0.221, 0.689],  # number of colours, squared
    [-1.042, -0.456, -0.602, 2.101],  # constant
]
