"""The second opinion: maps and masks in float64 and plain loops, written from the definitions.

Nothing of the library is imported here. Arrays are indexed one element at a time on purpose: a transposed axis
or a wrong broadcast can't hide in a loop that names what it runs over.
"""

import math
from itertools import permutations, product

import numpy as np


def softmax(scores):
    """Weights of one pixel, from its scores over the tokens that share its attention."""
    greatest = max(scores)
    powers = [math.exp(score - greatest) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def pixel_weights(query, keys, scale):
    """Attention weights of one pixel: its query (head_dim,), one key (head_dim,) a token."""
    return softmax([scale * sum(float(q) * float(k) for q, k in zip(query, key, strict=True)) for key in keys])


def block_keys(projection, vectors, heads):
    """Keys (head, token, head_dim): each head has its own rows of the projection (head * head_dim, width)."""
    head_dim = projection.shape[0] // heads
    keys = np.zeros((heads, len(vectors), head_dim))
    for head, token, channel in product(range(heads), range(len(vectors)), range(head_dim)):
        keys[head, token, channel] = sum(
            float(a) * float(b) for a, b in zip(projection[head * head_dim + channel], vectors[token], strict=True)
        )
    return keys


def block_weights(query, key, scale, lengths):
    """Weights (head, step, token, pixel) of one block, from (head, step, pixel, head_dim) and (head, token, head_dim).

    `lengths` are the numbers of tokens of the attribution prompts, each with a softmax of its own.
    """
    heads, steps, pixels, _ = query.shape
    weights = np.zeros((heads, steps, key.shape[1], pixels))
    for head, step, pixel in product(range(heads), range(steps), range(pixels)):
        start = 0
        for length in lengths:
            tokens = range(start, start + length)
            shares = pixel_weights(query[head, step, pixel], [key[head, token] for token in tokens], scale)
            for token, share in zip(tokens, shares, strict=True):
                weights[head, step, token, pixel] = share
            start += length
    return weights


def joint_weights(query, key, image_key, scale, lengths):
    """Like `block_weights`, each prompt's tokens weighed together with the image keys (head, step, pixel, head_dim)."""
    heads, steps, pixels, _ = query.shape
    weights = np.zeros((heads, steps, key.shape[1], pixels))
    for head, step, pixel in product(range(heads), range(steps), range(pixels)):
        image = [image_key[head, step, other] for other in range(image_key.shape[2])]
        start = 0
        for length in lengths:
            tokens = range(start, start + length)
            shares = pixel_weights(query[head, step, pixel], [key[head, token] for token in tokens] + image, scale)
            for token, share in zip(tokens, shares[:length], strict=True):
                weights[head, step, token, pixel] = share
            start += length
    return weights


def self_attention(calls, scale):
    """Weights (pixel, pixel) from each pixel to each, a mean over calls and heads; the row is the one that attends.

    `calls` are pairs of queries and keys, each (head, pixel, head_dim).
    """
    heads, pixels, _ = calls[0][0].shape
    weights = np.zeros((pixels, pixels))
    for (query, key), head, pixel in product(calls, range(heads), range(pixels)):
        shares = pixel_weights(query[head, pixel], key[head], scale)
        for other in range(pixels):
            weights[pixel, other] += shares[other] / (heads * len(calls))
    return weights


def eight_bits(values):
    """What (head, step, pixel, head_dim) in eight bits stands for: whole numbers of 1/127 of a channel's greatest."""
    heads, steps, pixels, channels = values.shape
    kept = np.zeros(values.shape)
    for head, step, channel in product(range(heads), range(steps), range(channels)):
        column = [float(values[head, step, pixel, channel]) for pixel in range(pixels)]
        unit = max(abs(value) for value in column) / 127
        for pixel, value in enumerate(column):
            kept[head, step, pixel, channel] = unit * round(value / unit) if unit else 0.0
    return kept


def attention_output(query, keys, values, scale):
    """What attention gives one position: its query (head_dim,), and a key and a value (head_dim,) of every position."""
    shares = pixel_weights(query, keys, scale)
    return [
        sum(share * float(value[channel]) for share, value in zip(shares, values, strict=True))
        for channel in range(len(query))
    ]


def output_shares(image, texts, words):
    """Shares (step, word, pixel) of the words in every pixel's attention output.

    `image` is (head, step, pixel, head_dim), `texts` (step, head, token, head_dim), `words` the tokens of each word.
    """
    heads, steps, pixels, channels = image.shape
    shares = np.zeros((steps, len(words), pixels))
    for step, pixel in product(range(steps), range(pixels)):
        scores = []
        for tokens in words:
            score = 0.0
            for head, channel in product(range(heads), range(channels)):
                mean = sum(float(texts[step, head, token, channel]) for token in tokens) / len(tokens)
                score += float(image[head, step, pixel, channel]) * mean
            scores.append(score)
        shares[step, :, pixel] = softmax(scores)
    return shares


def resize(image, size):
    """Bilinear with align_corners=False: positions are pixel centres, and borders are repeated."""
    (old_height, old_width), (height, width) = image.shape, size
    resized = np.zeros(size)
    for y, x in product(range(height), range(width)):
        rows, columns = neighbours(y, height, old_height), neighbours(x, width, old_width)
        resized[y, x] = sum(a * b * image[row, column] for row, a in rows for column, b in columns)
    return resized


def neighbours(position, size, old_size):
    """The two old positions that a new one lies between, each with its share."""
    place = max((position + 0.5) * old_size / size - 0.5, 0.0)
    low = min(math.floor(place), old_size - 1)
    high = min(low + 1, old_size - 1)
    return [(low, 1 - (place - low)), (high, place - low)]


def all_maps(blocks, lengths):
    """Every map there is: {(block, head, step): (token, height, width)}, all at the finest grid.

    `blocks` is {name: (query, key, scale, (height, width))}.
    """
    finest = max((grid for *_, grid in blocks.values()), key=math.prod)
    maps = {}
    for name, (query, key, scale, grid) in blocks.items():
        weights = block_weights(query, key, scale, lengths)
        for head, step in product(range(weights.shape[0]), range(weights.shape[1])):
            maps[name, head, step] = np.stack([resize(row.reshape(grid), finest) for row in weights[head, step]])
    return maps


def mean_maps(maps, keep=()):
    """Means over all triples alike, one for each kept label: {(block or (block, head) or None, step or None): mean}."""
    groups = {}
    for (block, head, step), token_maps in maps.items():
        first = (block, head) if "head" in keep else block if "block" in keep else None
        groups.setdefault((first, step if "step" in keep else None), []).append(token_maps)
    return {labels: sum(group) / len(group) for labels, group in groups.items()}


def word_map(token_maps, positions):
    """Sum of the maps of a word's tokens, of (..., token, height, width)."""
    total = np.zeros_like(token_maps[..., 0, :, :])
    for position in positions:
        total = total + token_maps[..., position, :, :]
    return total


def min_max(image):
    """Stretched to [0, 1] by its least and greatest value; a constant image becomes 0."""
    low, high = image.min(), image.max()
    return np.zeros_like(image) if high == low else (image - low) / (high - low)


def presence(image, scale, offset, tokens=1, share=0.02):
    """Probability from the mean log-odds of the strongest share of the pixels, one pixel at least."""
    values = sorted(image.flatten().tolist(), reverse=True)
    strongest = values[: max(1, math.floor(share * len(values)))]
    level = sum(math.log(value / (1 - value)) for value in strongest) / len(strongest) - math.log(tokens)
    return 1 / (1 + math.exp(-scale * level - offset))


def contested(scores, rivals, threshold, least=1e-4):
    """Scores (word, height, width) of words where contrast words stronger than the background stand in its place."""

    def odds(score):
        score = min(max(float(score), least), 1 - least)
        return math.log(score / (1 - score))

    border, found = math.log(threshold / (1 - threshold)), np.array(scores, dtype=float)
    for word, y, x in product(*map(range, scores.shape)):
        ahead = max([odds(rival[y, x]) for rival in rivals], default=border) - border
        if ahead > 0:
            found[word, y, x] = 1 / (1 + math.exp(ahead - odds(scores[word, y, x])))
    return found


def label_map(scores, count, threshold):
    """Number of the strongest of (word, height, width) at each pixel, from 1; 0 where background or a rival wins."""
    _, height, width = scores.shape
    labels = np.zeros((height, width), dtype=int)
    for y, x in product(range(height), range(width)):
        strengths = [threshold, *scores[:, y, x]]
        winner = strengths.index(max(strengths))
        labels[y, x] = winner if winner <= count else 0
    return labels


def token_loss(scores, shares, weight):
    """Cross entropy and overlap of log-odds (class, height, width), of one annotation.

    `shares` (1 + class, height, width) of background and classes are right, `weight` says how much a cell counts.
    """
    classes, height, width = scores.shape
    entropy, counted = 0.0, 0.0
    both, either = np.zeros(classes), np.zeros(classes)
    for y, x in product(range(height), range(width)):
        probabilities = softmax([0.0, *scores[:, y, x]])
        right = shares[:, y, x]
        entropy -= weight[y, x] * sum(r * math.log(p) for r, p in zip(right, probabilities, strict=True))
        counted += weight[y, x]
        for i in range(classes):
            both[i] += weight[y, x] * probabilities[i + 1] * right[i + 1]
            either[i] += weight[y, x] * (probabilities[i + 1] + right[i + 1])
    return entropy / counted + np.mean(1 - 2 * both / either)


def area_shares(planes, size):
    """Share of each cell of a coarser lattice that booleans (plane, height, width) fill; whole cells only."""
    count, height, width = planes.shape
    tall, wide = height // size[0], width // size[1]
    shares = np.zeros((count, *size))
    for i, y, x in product(range(count), range(size[0]), range(size[1])):
        shares[i, y, x] = sum(planes[i, y * tall + a, x * wide + b] for a, b in product(range(tall), range(wide))) / (
            tall * wide
        )
    return shares


def run_lengths(mask):
    """Runs of 0 and 1 in turn, 0 first, down the columns of a mask."""
    runs, value = [0], 0
    height, width = mask.shape
    for x, y in product(range(width), range(height)):
        if int(mask[y, x]) == value:
            runs[-1] += 1
        else:
            runs.append(1)
            value = 1 - value
    return runs


def packed(runs):
    """COCO's text of runs: from the fourth on less the one before last, in groups of five bits, lowest first."""
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        while True:
            bits, number = number & 31, number >> 5
            last = (number == 0 and not bits & 16) or (number == -1 and bits & 16)
            text += chr(48 + bits + (0 if last else 32))
            if last:
                break
    return text


def refined(maps, affinity, *, method, products, exponent=1.0, spread=0.85, sharpness=0.1):
    """Maps (map, pixel) after products with an affinity (pixel, pixel), whose row is the pixel that attends."""
    pixels = len(affinity)
    weights = [[float(affinity[row, column]) for column in range(pixels)] for row in range(pixels)]
    if method == "powers":
        weights = [[weight**exponent for weight in row] for row in weights]
    if method == "sharpened":
        greatest = [max(row[column] for row in weights) for column in range(pixels)]
        shares = [[row[column] / greatest[column] for column in range(pixels)] for row in weights]
        weights = [[max(0.0, s + sharpness * math.log10(math.e * s)) if s > 0 else 0.0 for s in row] for row in shares]
    weights = [[weight / sum(row) for weight in row] for row in weights]
    found = []
    for first in maps:
        values = [float(value) for value in first]
        for _ in range(products):
            values = [sum(weights[row][column] * values[column] for column in range(pixels)) for row in range(pixels)]
            if method == "restart":
                values = [spread * new + (1 - spread) * float(old) for new, old in zip(values, first, strict=True)]
            if method == "sharpened":
                values = [value - min(values) for value in values]
                values = [value / sum(values) for value in values]
        if method == "sharpened":
            low, high = min(map(float, first)), max(map(float, first))
            values = [low + (high - low) * value / max(values) for value in values]
        found.append(values)
    return np.array(found)


def dense_crf(probabilities, image, iterations, kernels, clip):
    """Mean field of a dense CRF on (class, height, width), with exact kernels between every two pixels.

    `kernels` are triples: width in the plane, width in colour or None where colour does not matter, and weight.
    """
    classes, height, width = probabilities.shape
    pixels = list(product(range(height), range(width)))
    links = np.zeros((len(pixels), len(pixels)))
    for reach, colour_width, weight in kernels:
        links += weight * normalised_links(image, pixels, reach, colour_width)
    beliefs = {
        c: [math.log(min(max(float(probabilities[c, y, x]), clip), 1.0)) for y, x in pixels] for c in range(classes)
    }
    shares = np.array([softmax([beliefs[c][i] for c in range(classes)]) for i in range(len(pixels))])
    for _ in range(iterations):
        around = links @ shares
        shares = np.array([softmax([beliefs[c][i] + around[i, c] for c in range(classes)]) for i in range(len(pixels))])
    return shares.T.reshape(classes, height, width)


def normalised_links(image, pixels, reach, colour_width):
    """Gaussians between all pixels, each divided by the root of both pixels' sums, which include the pixel itself."""
    links = np.zeros((len(pixels), len(pixels)))
    for (i, (y, x)), (j, (row, column)) in product(enumerate(pixels), enumerate(pixels)):
        squares = ((y - row) ** 2 + (x - column) ** 2) / reach**2
        if colour_width is not None:
            squares += sum((float(a) - float(b)) ** 2 for a, b in zip(image[y, x], image[row, column], strict=True)) / (
                colour_width**2
            )
        links[i, j] = math.exp(-squares / 2)
    sums = [sum(row) for row in links]
    for i, j in product(range(len(pixels)), range(len(pixels))):
        links[i, j] /= math.sqrt(sums[i] * sums[j])
    return links


def value_at(values, x, y):
    """Value of a map (height, width) at a place, x and y from 0 to 1 over the whole map; nothing is outside of it."""
    height, width = values.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = 0.0
    for i, j in product((math.floor(row), math.floor(row) + 1), (math.floor(column), math.floor(column) + 1)):
        if 0 <= i < height and 0 <= j < width:
            total += (1 - abs(row - i)) * (1 - abs(column - j)) * float(values[i, j])
    return total


def probability(log_odds):
    """Logistic function."""
    return 1 / (1 + math.exp(-log_odds))


def cross_entropy_of(log_odds, wanted):
    """Binary cross entropy of one pixel."""
    likely = probability(log_odds)
    return -(wanted * math.log(likely) + (1 - wanted) * math.log(1 - likely))


def dice_of(log_odds, wanted):
    """Dice loss of one mask, given as lists of points."""
    likely = [probability(value) for value in log_odds]
    both = sum(p * w for p, w in zip(likely, wanted, strict=True))
    return 1 - (2 * both + 1) / (sum(likely) + sum(wanted) + 1)


def cheapest_matching(scores, masks, classes, targets, points, weights):
    """Query of each target at the least total cost, found by trying all of them.

    Scores (query, class), masks (query, height, width), targets (target, height, width), points (point, 2) as x and y.
    The weights are those of class, cross entropy and dice.
    """
    costs = np.zeros((len(masks), len(targets)))
    for query, target in product(range(len(masks)), range(len(targets))):
        found = [value_at(masks[query], x, y) for x, y in points]
        wanted = [value_at(targets[target], x, y) for x, y in points]
        entropy = sum(cross_entropy_of(f, w) for f, w in zip(found, wanted, strict=True)) / len(points)
        share = softmax([float(value) for value in scores[query]])[classes[target]]
        costs[query, target] = -weights[0] * share + weights[1] * entropy + weights[2] * dice_of(found, wanted)
    tried = {
        queries: sum(costs[query, target] for target, query in enumerate(queries))
        for queries in permutations(range(len(masks)), len(targets))
    }
    return min(tried, key=tried.get)


def class_loss(scores, wanted, weights):
    """Weighted mean of the queries' cross entropies; `weights` by class."""
    total = share = 0.0
    for query, number in enumerate(wanted):
        total -= weights[number] * math.log(softmax([float(value) for value in scores[query]])[number])
        share += weights[number]
    return total / share


def prompt_channels(query, key, scale):
    """Attention (head * token, pixel) of pixels (head, pixel, head_dim) to tokens (head, token, head_dim)."""
    heads, pixels, tokens = query.shape[0], query.shape[1], key.shape[1]
    found = np.zeros((heads * tokens, pixels))
    for head, pixel in product(range(heads), range(pixels)):
        for token, share in enumerate(pixel_weights(query[head, pixel], key[head], scale)):
            found[head * tokens + token, pixel] = share
    return found


def sine_position(row, column, grid, width):
    """Channels that tell where a pixel is: those of the row, then those of the column."""
    half, found = width // 2, []
    for place, count in ((row, grid[0]), (column, grid[1])):
        turn = (place + 1) / (count + 1e-6) * 2 * math.pi
        for channel in range(half):
            rate = 10_000 ** (2 * (channel // 2) / half)
            found.append(math.sin(turn / rate) if channel % 2 == 0 else math.cos(turn / rate))
    return found


def bicubic(image, size):
    """Cubic convolution with a = -0.75 on 4 x 4 neighbours, pixel centres aligned, borders repeated."""

    def shares(position, new, old):
        place = (position + 0.5) * old / new - 0.5
        low = math.floor(place)
        near = [(low + offset, abs(place - low - offset)) for offset in (-1, 0, 1, 2)]
        return [(min(max(i, 0), old - 1), _cubic(distance)) for i, distance in near]

    (old_height, old_width), (height, width) = image.shape, size
    found = np.zeros(size)
    for y, x in product(range(height), range(width)):
        rows, columns = shares(y, height, old_height), shares(x, width, old_width)
        found[y, x] = sum(a * b * float(image[row, column]) for row, a in rows for column, b in columns)
    return found


def _cubic(distance, a=-0.75):
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a


def daam(blocks, positions):
    """DAAM's map of a word: of every head of every block alike, its mean over calls enlarged and at least 0.

    `blocks` as in `all_maps`, without those that are left out; all tokens share the attention. `positions` are those
    of the word's tokens, whose mean it is.
    """
    finest = max((grid for *_, grid in blocks.values()), key=math.prod)
    total, count = np.zeros(finest), 0
    for query, key, scale, grid in blocks.values():
        weights = block_weights(query, key, scale, [key.shape[1]])
        for head in range(weights.shape[0]):
            count += 1
            for position in positions:
                mean = sum(weights[head, step, position] for step in range(weights.shape[1])) / weights.shape[1]
                total += np.maximum(bicubic(mean.reshape(grid), finest), 0) / len(positions)
    return total / count


def attn2mask(image, size, beta):
    """Where a stretched map exceeds its background, 1 - h - beta, both enlarged."""
    word = min_max(image)
    background = 1 - word - beta
    return resize(word, size) > resize(background, size)


def over_greatest(image, size):
    """A map at a size, divided by its greatest value there."""
    wide = resize(image, size)
    return wide / wide.max()


def dataset_diffusion(maps, affinities, grid, size, *, products, threshold, ignored):
    """Dataset Diffusion's labels and values from maps (class, height, width) and one affinity a block.

    The best class of at least the threshold, 0 below, 255 from `ignored` to the threshold.
    """
    pixels = grid[0] * grid[1]
    weights = [
        [sum(float(one[i, j]) for one in affinities) / len(affinities) for j in range(pixels)] for i in range(pixels)
    ]
    values = []
    for one in maps:
        column = bicubic(one, grid).flatten().tolist()
        for _ in range(products):
            column = [sum(weights[i][j] * column[j] for j in range(pixels)) for i in range(pixels)]
        values.append(bicubic(min_max(np.array(column).reshape(grid)), size))
    labels = np.zeros(size, dtype=int)
    for y, x in product(*map(range, size)):
        best = max(value[y, x] for value in values)
        winner = [value[y, x] for value in values].index(best) + 1
        labels[y, x] = winner if best >= threshold else 255 if best >= ignored else 0
    return labels, values


def noised(clean, noise, level, predicts):
    """Latent (channel, height, width) with noise.

    `level` is the share of noise if a model predicts a "flow", else the square of the image's share.
    """
    of_image, of_noise = (1 - level, level) if predicts == "flow" else (math.sqrt(level), math.sqrt(1 - level))
    found = np.zeros(clean.shape)
    for place in product(*map(range, clean.shape)):
        found[place] = of_image * float(clean[place]) + of_noise * float(noise[place])
    return found


def _wanted(clean, noise, level, predicts):
    """What a model should predict at one place of one channel."""
    if predicts == "v_prediction":
        return math.sqrt(level) * noise - math.sqrt(1 - level) * clean
    return {"epsilon": noise, "sample": clean, "flow": noise - clean}[predicts]


def word_gains(clean, looks, words, predicts):
    """Gains (word, height, width), each word a list of synonyms: how much less the squared error is than with nothing.

    A look is a level as in `noised`, the noise (channel, height, width), and the prediction of each text.
    """
    channels, height, width = clean.shape
    gains = {text: np.zeros((height, width)) for synonyms in words for text in synonyms}
    for level, noise, predictions in looks:
        errors = {text: np.zeros((height, width)) for text in predictions}
        for text, (channel, y, x) in product(predictions, product(range(channels), range(height), range(width))):
            wanted = _wanted(float(clean[channel, y, x]), float(noise[channel, y, x]), level, predicts)
            errors[text][y, x] += (float(predictions[text][channel, y, x]) - wanted) ** 2
        mean = sum(errors[""].flatten().tolist()) / (height * width)
        for text, (y, x) in product(gains, product(range(height), range(width))):
            gains[text][y, x] += (errors[""][y, x] - errors[text][y, x]) / mean / len(looks)
    found = np.zeros((len(words), height, width))
    for i, y, x in product(*map(range, found.shape)):
        found[i, y, x] = max(gains[text][y, x] for text in words[i])
    return found


def smoothed(image, sigma):
    """Gaussian, cut off at four sigma; beyond its border the image goes on mirrored, with the last pixel twice."""
    reach = math.floor(4 * sigma + 0.5)
    weights = {step: math.exp(-((step / sigma) ** 2) / 2) for step in range(-reach, reach + 1)}

    def inside(place, size):
        place %= 2 * size
        return place if place < size else 2 * size - 1 - place

    height, width = image.shape
    found = np.zeros(image.shape)
    for y, x in product(range(height), range(width)):
        for (down, one), (right, other) in product(weights.items(), weights.items()):
            found[y, x] += one * other * float(image[inside(y + down, height), inside(x + right, width)])
    return found / sum(weights.values()) ** 2


def lead(gains, place, share=0.04):
    """Mean, over the share of places where it is greatest, of a smoothed gain less the greatest other one, or 0."""
    _, height, width = gains.shape
    smooth = [smoothed(one, min(height, width) / 16) for one in gains]
    ahead = []
    for y, x in product(range(height), range(width)):
        others = [one[y, x] for i, one in enumerate(smooth) if i != place]
        ahead.append(smooth[place][y, x] - max([0.0, *others]))
    count = max(1, math.floor(share * len(ahead)))
    return sum(sorted(ahead, reverse=True)[:count]) / count
