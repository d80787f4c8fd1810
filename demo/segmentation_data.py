"""Label maps for the demo's segmentation net: shapes drawn on crops of scikit-learn's photographs."""

import numpy as np
from sklearn.datasets import load_sample_images

CLASSES = ("background", "disc", "diamond")
RARE = 2  # the class of the diamonds
IGNORE = 255
SIZE = 32
RARE_SHARE = 0.15  # the share of the images that show a diamond
COLOURS = {1: (0.95, 0.75, 0.2), RARE: (0.6, 0.3, 0.75)}
COVER = 0.6  # how much of a shape's colour covers the photograph below it


def draw(random, count):
    """Images with shapes, and their label maps.

    Args:
        random: a numpy.random.Generator.
        count: how many images.

    Returns:
        Images (count, 3, SIZE, SIZE) from −0.5 to 0.5, and labels (count, 1, SIZE, SIZE). A pixel at the border of a
        shape is partly this and partly that, and its label is IGNORE.
    """
    photographs = [photograph.transpose(2, 0, 1) / 255 for photograph in load_sample_images().images]
    images, labels = np.empty((count, 3, SIZE, SIZE)), np.zeros((count, 1, SIZE, SIZE))
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        _, height, width = photograph.shape
        row, column = random.integers(0, height - SIZE), random.integers(0, width - SIZE)
        images[index] = photograph[:, row : row + SIZE, column : column + SIZE]
        shapes = [1] * random.integers(1, 3) + [RARE] * int(random.random() < RARE_SHARE)
        for shape in shapes:
            _draw_shape(random, shape, images[index], labels[index, 0])
    return images - 0.5, labels


def _draw_shape(random, shape, image, label):
    """Draws a disc or a diamond somewhere into an image and its label map."""
    y, x = np.indices((SIZE, SIZE)) - random.uniform(5, SIZE - 5, (2, 1, 1))
    if shape == RARE:
        inside = random.uniform(3, 5) - (abs(y) + abs(x)) / np.sqrt(2)  # the distance to the border
    else:
        inside = random.uniform(4, 7) - np.hypot(y, x)
    colour = np.array(COLOURS[shape]) + random.normal(0, 0.05, 3)
    cover = COVER * np.clip(inside + 0.5, 0, 1)
    image[...] = image * (1 - cover) + colour[:, np.newaxis, np.newaxis] * cover
    label[inside > 0] = shape
    label[abs(inside) < 0.7] = IGNORE
