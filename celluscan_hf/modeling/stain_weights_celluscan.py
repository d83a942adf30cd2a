"""The numbers of the check in `stain_celluscan.py`, which `celluscan benchmark stain` fits.

`CENTRES` and `SCALES` standardize the features, in the order of `FEATURES`. `WEIGHTS` has a row for each standardized
feature, each square, and the constant; a column for each kind: cell, unstained, colours, structure.
"""

THRESHOLD = 0.15  # least probability of a stained cell
CENTRES = [
    0.0126,
    0.541,
    0.1266,
    0.6486,
    0.5031,
    0.2524,
    -0.0746,
    -0.1282,
    0.0312,
    0.0448,
    0.0705,
    0.3187,
    0.277,
    -0.2738,
    -0.9209,
    3.8983,
]
SCALES = [
    0.026,
    0.6081,
    0.1688,
    0.7506,
    0.1796,
    0.1818,
    0.2614,
    0.3083,
    0.0518,
    0.1234,
    0.1583,
    0.315,
    0.1377,
    0.7045,
    0.9434,
    1.28,
]
WEIGHTS = [
    [0.045, -0.932, 0.223, 0.664],  # brighter than the field
    [1.231, -1.447, 1.016, -0.8],  # strongest stain
    [-0.233, 0.628, 0.194, -0.589],  # stained share
    [1.452, 1.317, -1.488, -1.281],  # stain against absorption
    [0.427, -0.884, -0.318, 0.775],  # red in the stain
    [-0.189, -0.357, 0.239, 0.307],  # blue in the stain
    [-0.639, 0.204, 0.768, -0.333],  # red against green
    [-0.301, -0.091, 0.454, -0.062],  # blue against green
    [-1.091, -0.142, -0.075, 1.309],  # spread of colours
    [-0.123, -0.862, 0.906, 0.079],  # greenish share
    [-0.628, -0.622, 1.137, 0.113],  # orange share
    [0.904, -2.698, 0.205, 1.588],  # detail
    [-0.539, -0.859, -0.041, 1.439],  # edges
    [-1.191, 0.47, 0.221, 0.5],  # border against middle
    [-1.264, 1.278, -0.19, 0.175],  # detail of field against cells
    [-0.56, -1.355, -0.039, 1.954],  # number of colours
    [0.171, -0.015, 0.016, -0.172],  # brighter than the field, squared
    [-0.173, 0.105, -0.269, 0.337],  # strongest stain, squared
    [0.05, -0.262, -0.001, 0.212],  # stained share, squared
    [-0.093, -0.454, 0.308, 0.239],  # stain against absorption, squared
    [-0.596, -0.098, 0.214, 0.479],  # red in the stain, squared
    [-1.04, -0.231, 0.621, 0.651],  # blue in the stain, squared
    [0.007, 0.098, 0.025, -0.13],  # red against green, squared
    [0.445, -0.206, 0.018, -0.257],  # blue against green, squared
    [0.343, 0.138, -0.111, -0.37],  # spread of colours, squared
    [0.064, 0.262, -0.329, 0.003],  # greenish share, squared
    [-0.049, 0.119, -0.183, 0.113],  # orange share, squared
    [-0.179, 1.907, -2.824, 1.096],  # detail, squared
    [0.022, 0.095, -0.128, 0.012],  # edges, squared
    [0.253, -0.665, 0.648, -0.236],  # border against middle, squared
    [0.196, -0.415, 0.3, -0.08],  # detail of field against cells, squared
    [-0.661, 0.158, -0.345, 0.849],  # number of colours, squared
    [-1.188, -0.472, -0.444, 2.104],  # constant
]
