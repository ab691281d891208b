"""Facts of Höfling et al. 2024 under their published names; configs/data_io/hoefling_2024.yaml is what readers use."""

FRAME_RATE_MODEL = 30.0  # frames per second
SCENE_LENGTH = CLIP_LENGTH = 150  # frames
NUM_CLIPS = 108  # of the training movie
STIMULI_IDS = {"natural": 5, "chirp": 1, "mb": 2}

# functional groups of Baden T, Berens P, Franke K, Román Rosón M, Bethge M, Euler T (2016) The functional diversity of
# retinal ganglion cells in the mouse. Nature 529:345-350; from 33 on displaced amacrine cells
RGC_GROUP_NAMES_DICT = {
    1: "OFF local, OS",
    2: "OFF DS",
    3: "OFF step",
    4: "OFF slow",
    5: "OFF alpha sust.",
    6: "(ON-)OFF Jam-B mix",
    7: "OFF sust",
    8: "OFF alpha trans",
    9: "OFF mini alpha trans",
    10: "ON-OFF local-edge W3",
    11: "ON-OFF local",
    12: "ON-OFF DS 1",
    13: "ON-OFF DS 2",
    14: "(ON-)OFF local, OS",
    15: "ON step",
    16: "ON DS trans",
    17: "ON local trans, OS",
    18: "ON trans",
    19: "ON trans, large",
    20: "ON high freq",
    21: "ON low freq",
    22: "ON sust",
    23: "ON mini alpha",
    24: "ON alpha",
    25: "ON DS sust 1",
    26: "ON DS sust 2",
    27: "ON slow",
    28: "ON contrast suppr.",
    29: "ON DS sust 3",
    30: "ON local sust Os",
    31: "OFF suppr. 1",
    32: "OFF suppr. 2",
    33: "OFF AC",
    34: "ON high freq. sust. 1 AC",
    35: "ON high freq. trans. AC",
    36: "ON-OFF high freq. AC",
    37: "ON high freq. sust. 2 AC",
    38: "ON sust. 1 AC",
    39: "ON sust. 2 AC",
    40: "ON sust. 3 AC",
    41: "ON sust. 4 AC",
    42: "ON starburst AC",
    43: "ON-OFF local AC",
    44: "ON step AC",
    45: "ON local 1 AC",
    46: "ON local 2 AC",
}
BADEN_TYPE_BOUNDARIES = [9, 14, 20, 28, 32]  # the last group of each class of ganglion cells
CLASS_NAMES = ("OFF", "ON-OFF", "Fast On", "SLOW ON", "Uncertain RGC", "AC")
RGC_GROUP_GROUP_ID_TO_CLASS_NAME = {
    group: CLASS_NAMES[sum(group > last for last in BADEN_TYPE_BOUNDARIES)] for group in RGC_GROUP_NAMES_DICT
}

# of a stimulus in the units of the published movie: largest norm, and range of each channel
STIMULUS_RANGE_CONSTRAINTS = {
    "norm": 30.0,
    "x_min_green": -0.654,
    "x_max_green": 6.269,
    "x_min_uv": -0.913,
    "x_max_uv": 6.269,
}
