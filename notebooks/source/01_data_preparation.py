# %% [markdown]
# # 01 · Data preparation: what a defect detector may see
#
# <!-- badge -->
#
# In this notebook we will
#
# * **name** what MVTec AD contains, and where our images come from;
# * **look** at good parts, defects and their masks before any model exists;
# * **show** how resizing a mask the wrong way changes every pixel metric that follows;
# * **cut** the test folder so that a classifier can be trained without seeing its own exam;
# * **keep** two views of one item together, where a cut by image would tear them apart;
# * **measure** how far one gets with no model at all, the row that every later table must beat;
# * **hand over** `data.zip` and `packages.zip` to the notebooks that follow.
#
# **You need** nothing but this package: in the profile *quick* the products are drawn by code. Half a minute on 2 CPU
# cores. In *full* it reads real MVTec AD from your disk; no GPU is used here.

# %%
# <setup>

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display

from mvtec_ad import artifacts, metrics, plotting, profile, synthetic
from mvtec_ad.data import catalog, index, loading, official, prepare, splits
from mvtec_ad.methods.baselines import trivial_scores
from mvtec_ad.notebooks import where_possible
from mvtec_ad.synthetic import boxes

# %%
PROFILE = "quick"  # @param ["quick", "full"]
CATEGORIES = ""  # @param {type:"string"}
SOURCE = "auto"  # @param ["auto", "mvtec_ad", "download", "synthetic"]
ROOT = ""  # @param {type:"string"}

run = profile(PROFILE, CATEGORIES)
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}: {', '.join(run.data.categories)} at {run.data.image_size} px")

# %% [markdown]
# `CATEGORIES` picks other products than the profile's, separated by spaces. `SOURCE` says where images come from:
#
# * `auto`: real MVTec AD where `data/mvtec_anomaly_detection/` or `transfer/raw-data.zip` (your own zip of its folders; in
#   Colab `artifacts.upload()` brings it) holds products: those, and no others; where neither holds any, products drawn by code;
# * `mvtec_ad`: the same two places, and an error that says what to do where neither holds it;
# * `download`: the same, and what is missing comes from MVTec's servers, 100 to 750 MB per product. The images are licensed
#   **CC BY-NC-SA 4.0**: name the authors, no commercial use, share under the same terms. Choose it only if you agree;
# * `synthetic`: drawn by code, always.
#
# `ROOT` comes before all of these: a folder with one folder per product, or an archive (`.zip`, `.tar.xz`) of such folders.

# %% [markdown]
# ## Five images first
#
# Nothing replaces looking. The table below has one row per image; `label` is 1 for a defect, and `group` ties together
# pictures of one physical item.

# %%
table, sources = prepare.read_all(run.data.categories, settings=run.data, root=ROOT or None, source=SOURCE)
categories = list(sources)  # what is absent beside others is named above, and left out
print("data source:", sources)
table.groupby(["category", "split", "defect"]).size().rename("images").to_frame()

# %%
first = categories[0]
first_table = table[table["category"] == first].reset_index(drop=True)


def one_good_and_four_defects(name):
    """Five rows of a product to look at, of the test folder where it has some."""
    rows = table[table["category"] == name].sort_values("split", kind="stable")
    defective = rows[rows["label"] == 1].groupby("defect").head(2).sort_values("defect")
    spread = [n for n in dict.fromkeys([0, 2, 3, len(defective) - 1]) if 0 <= n < len(defective)]
    return pd.concat([rows[rows["label"] == 0].head(1), defective.iloc[spread]])


chosen = pd.concat([one_good_and_four_defects(name) for name in categories[:2]]).reset_index(drop=True)
images = loading.load_images(list(chosen["image_path"]), run.data.image_size)
masks = loading.load_masks(chosen, run.data.image_size)
plotting.gallery(images, titles=list(chosen["defect"]), masks=masks, labels=list(chosen["label"]), columns=5)

# %% [markdown]
# The outlined regions are the ground truth. Two things decide how hard a product is, and both can be seen here: how large
# a defect is compared with the part, and how much *good* parts differ among themselves.
#
# ## What MVTec AD is
#
# Fifteen products and textures, photographed on a line-like set-up: 3629 good images to learn from, 467 good and 1258
# defective ones to be tested on, 73 kinds of defect (Bergmann et al., CVPR 2019). Training images show **no** defect:
# the task is to know *normal* so well that everything else stands out.

# %%
rows = [(c.name, c.kind, c.train, c.test_good, c.test_defective, len(c.defects)) for c in catalog.CATEGORIES.values()]
overview = pd.DataFrame(rows, columns=["category", "kind", "train", "test good", "test defective", "defect types"])
print(overview[["train", "test good", "test defective", "defect types"]].sum().to_dict())

colors = {"train": plotting.GOOD, "test good": plotting.METHOD_COLOURS[2], "test defective": plotting.DEFECT}
figure, axes = plt.subplots(figsize=(10, 3.2), layout="constrained")
overview.plot.bar(x="category", y=list(colors), stacked=True, color=colors, rot=40, width=0.8, ax=axes)
axes.set(xlabel="", ylabel="images", title="MVTec AD, official counts", ylim=(0, 620))
axes.legend(loc="upper left", ncols=3)
plt.show()

# %% [markdown]
# Look at the height of the good test images: 12 for toothbrush, 20 for bottle. A false-alarm rate measured on 20 images
# moves in steps of 5 %. This is why every number in this suite carries an interval.
#
# ## An audit before an experiment
#
# A missing mask or a doubled image spoils a result silently. `index.read_category` refuses such folders; `index.audit`
# compares the counts with the official ones. Equal counts may still be other pictures: a copy saved at half the size, a
# file cut off in a download, training and test images exchanged. `official.report` compares every file with the
# SHA-256 that it has in the official archive, and names what is damaged, missing, resized, moved, renamed or foreign.

# %%
for category in categories:
    rows = table[table["category"] == category]
    differences = index.audit(rows)
    print(f"{category}: {'equals the official counts' if not differences else '; '.join(differences[:2]) + ' …'}")
    if line := official.report(rows, progress=False):
        print(line)

# %% [markdown]
# Drawn images differ from the official counts, and say so; their bytes are compared with nothing. They are labelled
# `synthetic` in every table and artifact that follows, so that their numbers are never mistaken for published ones.
#
# ## Products drawn by code
#
# Seven products of MVTec AD can be drawn, with all their kinds of defect, from nothing but a seed. A row per product: good
# parts, then one of each defect.

# %%
row = [picture for name in synthetic.CATEGORIES for picture in synthetic.showcase(name, columns=9, size=112)]
titles, parts = zip(*row, strict=True)
plotting.gallery(
    [part.image for part in parts],
    titles,
    columns=9,
    masks=[part.mask for part in parts],
    labels=[int(part.mask.any()) for part in parts],
    size=1.1,
)

# %% [markdown]
# What a photograph can never give: **the same part with and without its defect**. Pose, light and sensor noise come from
# random streams of their own, so the two pictures differ at the defect only, and the mask is exact. The defect
# changes the object before light and camera: the dented capsule bends its highlights and its print.

# %%
good_part, bad_part = (synthetic.draw("capsule", 5, defect, size=256) for defect in (None, "squeeze"))
difference = np.abs(good_part.image.astype(int) - bad_part.image).max(-1).astype(np.uint8)
changed = difference > 0
assert changed[bad_part.mask].any()
assert (changed & bad_part.mask).sum() > 0.9 * changed.sum()
plotting.gallery(
    [good_part.image, bad_part.image, np.minimum(difference * 3, 255).astype(np.uint8), bad_part.image],
    titles=["good", f"squeeze, severity {bad_part.severity:.2f}", "difference × 3", "mask"],
    masks=[good_part.mask, good_part.mask, good_part.mask, bad_part.mask],
    columns=4,
)

# %% [markdown]
# How severe a defect is, from .1 (barely visible) to 1 (obvious), is drawn before anything is scored and stands in the table.
# Where the range begins is a setting, `least_severity`: *quick* draws defects from .5 on, so that a few images are enough to see what a
# method does; *full* and the default take the whole range.

# %%
defective = table[table["label"] == 1]
if "severity" in defective and (defective["severity"] > 0).any():
    print(f"severities of our defects: {defective['severity'].min():.2f} to {defective['severity'].max():.2f}")
print(f"least_severity of profile {run.name}: {run.data.least_severity}")

# %% [markdown]
# *From which severity on is a defect found?* That question needs the whole range. The same bottle with the same stain, at the severity that
# its seed gives from .1 on, and at the one that it gives from .5 on; object, light and noise are equal:

# %%
pairs = [
    (seed, least, synthetic.draw("bottle", seed, "contamination", least_severity=least))
    for least in (0.1, 0.5)
    for seed in range(5)
]
plotting.gallery(
    [part.image for _, _, part in pairs],
    titles=[f"from {least}: {part.severity:.2f}" for _, least, part in pairs],
    masks=[part.mask for _, _, part in pairs],
    labels=[1] * len(pairs),
    columns=5,
)

# %%
of_severity = [synthetic.draw("bottle", seed, "contamination", size=128) for seed in range(40)]
without = [synthetic.draw("bottle", seed, size=128).image.astype(int) for seed in range(40)]
contrast = [
    np.abs(part.image - good).max(-1)[part.mask].mean() if part.mask.any() else 0
    for part, good in zip(of_severity, without, strict=True)
]
area = [100 * part.mask.mean() for part in of_severity]
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for axis, values, word in zip(
    axes, (area, contrast), ("area, % of the image", "change inside, gray levels"), strict=True
):
    axis.plot([part.severity for part in of_severity], values, "o", color=plotting.DEFECT, alpha=0.6)
    axis.axvspan(0.5, 1, color="0.9", zorder=0)
    axis.set(xlabel="severity", ylabel=word, xlim=(0.05, 1.05))
figure.suptitle("bottle, contamination; grey: what quick draws")
plt.show()

# %% [markdown]
# Left of the grey band stains are smaller and fainter: there a detector begins to fail, and a table that hides severity hides where. How
# hard each product is over the whole range, and how far drawn bottles are from photographed ones, is measured in the data card,
# `mvtec_ad/synthetic/README.md`.
#
# ## How a mask survives a resize
#
# Networks want 256 pixels, masks come with 900. A mask is a set of pixels, not a picture: averaging gives values between
# 0 and 1, and someone must decide. We do it by hand on a 4×4 mask that becomes 2×2.

# %%
small = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
area = small.reshape(2, 2, 2, 2).mean((1, 3))  # share of defect in each 2×2 block
print("share of defect:", area.tolist())
print("any pixel > 0  :", (area > 0).astype(int).tolist())
print("nearest        :", loading.resize(small, 2).astype(int).tolist())

# %% [markdown]
# "Any pixel > 0" calls a quarter-covered block defective: the mask has grown from 5 of 16 pixels (31 %) to 2 of 4 (50 %).
# The package takes the nearest pixel: on average a nearest mask keeps its area. Here is the same on all masks of
# this product.

# %%
defective = first_table[first_table["mask_path"] != ""]
full_size = [loading.read_mask(path) for path in defective["mask_path"]]
if not full_size:
    print(f"{first} has no masks: where its defects lie is left out, and drawn masks are resized here")
    full_size = [part.mask for part in parts if part.mask.any()]
sizes = [256, 128, 64, 32]
any_pixel, nearest = [], []  # mean area after resizing, in units of the area before
for size in sizes:
    fraction = [loading.resize(mask.astype(np.uint8)[..., None].repeat(3, 2) * 255, size)[..., 0] for mask in full_size]
    any_pixel.append(np.mean([(new > 0).mean() / old.mean() for new, old in zip(fraction, full_size, strict=True)]))
    nearest.append(np.mean([loading.resize(old, size).mean() / old.mean() for old in full_size]))

figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.plot(sizes, any_pixel, "o-", color=plotting.DEFECT, label="any pixel > 0 after averaging")
axes.plot(sizes, nearest, "o-", color=plotting.GOOD, label="nearest (this package)")
axes.set(
    xscale="log", xticks=sizes, xticklabels=sizes, xlabel="side after resizing, pixels", ylabel="mask area / before"
)
axes.axhline(1, color="0.7", zorder=0)
axes.minorticks_off()
axes.legend()
plt.show()

# %% [markdown]
# The nearest curve stays at 1. The other one inflates small defects most, and a pixel metric computed with
# it cannot be compared with anything published.
#
# ## Where defects lie, and how large they are

# %%
kinds = defective["defect"] if len(defective) else ["drawn"] * len(full_size)
fractions = pd.DataFrame({"defect": kinds, "percent": [100 * mask.mean() for mask in full_size]})
figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", width_ratios=[1.4, 1])
look = {"color": plotting.DEFECT, "alpha": 0.6, "size": 8, "jitter": False, "ax": left_axes}
sns.stripplot(fractions.sort_values("defect", ascending=False), x="percent", y="defect", **look)
left_axes.set(
    xscale="log",
    xlabel="defective area, % of the image",
    ylabel="",
    title=first if len(defective) else "drawn products",
)
where = np.mean([loading.resize(mask, 64) for mask in full_size], axis=0)
picture = right_axes.imshow(where, cmap=plotting.ANOMALY_MAP)
plotting.bare(right_axes)
right_axes.set_title("share of defects that cover a place")
figure.colorbar(picture, ax=right_axes)
plt.show()

# %% [markdown]
# An image-level score must find half a percent of the picture in some images. That is why methods of this
# suite score *places* first and take the worst place as the score of the image.
#
# ## Two splits, two questions
#
# * **official**: learn from `train/good`, test on everything in `test`. For methods that never see a defect.
# * **supervised**: a classifier needs defects, and they exist in the test folder only. So that folder is cut
#   into train, validation and test, by defect type and by group. One-class methods are compared with classifiers on
#   that same last part, never on the whole.

# %%
of_category = dict(list(table.groupby("category")))
cuts = where_possible(lambda name: splits.supervised(of_category[name], seed=0), categories)
cut = pd.concat([table.head(0).assign(part=""), *cuts.values()])
parts = cut[cut["split"] == "test"].groupby(["category", "defect", "part"]).size().unstack("part")
assert not cut["group"].duplicated().any() or cut.groupby("group")["part"].nunique().max() == 1
parts.reindex(columns=["train", "validation", "test"])

# %% [markdown]
# The assertion is the important line: no item is in two parts. It says little here, where every item has one picture.
#
# ## Items seen from two sides
#
# On a packing line two cameras look at each carton, one from the side and one from the top. It is the example for
# classifiers, because damaged cartons exist to *learn* from as well. MVTec AD has no such product, so cartons are drawn,
# beside real products too; a folder `package` of your own, where the products lie, takes their place, or a zip of one as
# `transfer/raw-data.zip`: also as the authors of *Industrial Quality Control of Packages* ship it (`data/README.md`), in
# `{damaged,intact}/{side,top}/`, where the tenth with the lowest numbers becomes the test part. They go into an
# artifact of their own, `packages.zip`, and are not resized: the next cell says why.

# %%
packages_path = prepare.prepare_packages(run, root=ROOT or None, source=SOURCE)
packages_artifact = artifacts.load("packages")
packages = index.read_category(prepare.unpack(packages_artifact), run.data.packages)
print("data source:", packages_artifact.manifest["data_source"])
packages.groupby(["split", "defect", "view"]).size().unstack("view")


# %%
def inside_box(box_path):
    """The pixels in the box of an image: the damage, or the carton where it is intact; none where it has no box."""
    if not box_path:
        return np.zeros((1, 1), bool)
    annotation = boxes.read_annotation(box_path)
    inside, box = np.zeros(annotation.size, bool), annotation.box
    inside[box.ymin : box.ymax + 1, box.xmin : box.xmax + 1] = True
    return inside


intact, damaged = (packages.query(f"split == 'test' and label == {label}") for label in (0, 1))
covered = [100 * inside_box(path).mean() for path in damaged["box_path"] if path]
if covered:
    print(f"the box of a damage covers {np.median(covered):.1f} % of the picture, at least {min(covered):.1f} %")
else:
    print("these packages came without boxes: none are drawn below")

items = [*intact["group"].unique()[:1], *damaged["group"].unique()[:2]]
shown = packages[packages["group"].isin(items)].sort_values(["view", "label", "group"])
plotting.gallery(
    [loading.read_image(path) for path in shown["image_path"]],
    titles=[f"{row.view}, {row.defect}" for row in shown.itertuples()],
    masks=[inside_box(path) for path in shown["box_path"]],
    labels=list(shown["label"]),
    columns=3,
    size=3.2,
)

# %% [markdown]
# One carton per column, its side above, its top below. Around an intact carton the box shows where it stands; around a
# damaged one only the damage, which may be one corner. Squeezed to 256 pixels, little of it would be left:
# notebooks 04 and 05 cut the carton out first. Only test images have boxes, so nobody can train on them.
#
# Now both ways to keep a quarter of the training pictures for validation: by picture, and by item.

# %%
learning = packages[packages["split"] == "train"]
pictures_held_out = np.random.default_rng(0).random(len(learning)) < 0.25
items_held_out = splits.hold_out(learning, 0.25)
for way, held_out in (("by picture", pictures_held_out), ("by item", items_held_out)):
    torn = pd.Series(held_out, learning["group"]).groupby("group").nunique() == 2
    print(f"{way}: {held_out.mean():.0%} of the pictures held out, {torn.sum()} of {len(torn)} items on both sides")
assert not torn.any()

# %% [markdown]
# By picture, 2 · ¼ · ¾ = 38 % of all items are torn apart on average: the classifier is asked about cartons that it has
# learnt by heart from the other side. The supervised split leaves the official test items alone and cuts the training
# items. `check_separate` then compares the pixels of all pictures: a copy under a new name slips through any check of
# names.

# %%
packages_cut = splits.supervised(packages)
splits.check_separate(packages_cut, packages_cut["part"])
packages_cut.drop_duplicates("group").groupby(["defect", "part"]).size().unstack("part")[
    ["train", "validation", "test"]
]

# %% [markdown]
# ## With no model at all
#
# Before PaDiM, before any network: what does the mean image tell? Left, the average good part; right, how much each
# pixel varies among good parts.

# %%
figure, axes = plt.subplots(len(categories), 3, figsize=(7.5, 2.6 * len(categories)), squeeze=False)
figure.set_layout_engine("constrained")
train_images = {}
for row, category in zip(axes, categories, strict=True):
    train_images[category] = loading.load_images(
        list(of_category[category].query("split == 'train'")["image_path"]), 128
    )
    stack = train_images[category].astype(np.float32)
    row[0].imshow(train_images[category][0])
    row[1].imshow(stack.mean(0).astype(np.uint8))
    row[2].imshow(stack.std(0).mean(-1), cmap=plotting.ANOMALY_MAP)
    for axis, title in zip(row, ("one good part", "mean of good parts", "spread"), strict=True):
        plotting.bare(axis)
        axis.set_title(f"{category}: {title}")
plt.show()

# %% [markdown]
# The bottle always stands in the same place: its mean is sharp, and a pixel that leaves its usual range is news. The screw
# lies at any angle: its mean is a smear, and no pixel has a usual value. **This is the failure case of everything that
# models positions**, and it will come back in notebook 02.
#
# Now the scores. Each row costs five lines: mean intensity; the largest smoothed distance to the mean image; the same in
# units of each pixel's own spread (a z-score). By hand for one image, then by the package:

# %%
test_tables = {name: rows[rows["split"] == "test"] for name, rows in of_category.items()}
test_images, scores = {}, {}


def without_model(category):
    """Image AUROC of the trivial scores of a product."""
    test_images[category] = loading.load_images(list(test_tables[category]["image_path"]), 128)
    scores[category] = trivial_scores(train_images[category], test_images[category])
    labels = test_tables[category]["label"]
    return {name: metrics.image_auroc(labels, values) for name, values in scores[category].items()}


trivial = where_possible(without_model, categories)
for category in trivial:
    by_hand = test_images[category][0].astype(np.float32).mean(dtype=np.float64)
    assert abs(scores[category]["mean_intensity"][0] - by_hand) < 1e-3
pd.DataFrame(trivial).round(3)

# %% [markdown]
# AUROC is the probability that a defective part scores above a good one; .5 is a coin. On *real* MVTec AD bottles, too, the z-score row
# comes near to PaDiM with a pretrained network (the table in the README). Whoever prints only the second number has hidden how easy the
# product is.

# %%
for category in list(trivial)[:1]:
    two = {name: scores[category][name] for name in ("pixel_z_score", "distance_to_mean")}
    display(plotting.roc_and_pr(test_tables[category]["label"].to_numpy(), two))

# %% [markdown]
# The dotted line of the right panel is the share of defects in the test folder: calling *everything* defective already has
# that precision. For the same reason F1 has a floor:

# %%
for category in trivial:
    marks = test_tables[category]["label"].to_numpy()
    floor = 2 * marks.mean() / (1 + marks.mean())  # precision = share of defects, recall = 1
    assert abs(floor - metrics.f1_max(marks, np.ones(len(marks)))[0]) < 1e-12
    print(f"{category}: F1 of calling everything defective = {floor:.3f}")

# %% [markdown]
# ## Yours, reported, verdict
#
# What this notebook can be checked against are the counts of the data set.

# %%
lines = []
for category in categories:
    counts = table.loc[table["category"] == category, "split"].value_counts()
    known = catalog.CATEGORIES.get(category)
    yours = f"{counts['train']} + {counts.get('test', 0)}"
    reported = f"{known.train} + {known.test_good + known.test_defective}" if known else "–"
    verdict = "the official counts" if sources[category] == "mvtec_ad" else f"{sources[category]}: not comparable"
    lines.append([category, yours, reported, verdict])
pd.DataFrame(lines, columns=["category", "yours (train + test)", "reported", "verdict"])

# %% [markdown]
# ## Exercises
#
# **1.** The z-score row compares each pixel with itself. Blur the images first (`cv2.GaussianBlur(image, (0, 0), 3)`) and
# compute the row again for the second category. Does blur help where parts move?
#
# <details><summary>Solution</summary>
#
# ```python
# import cv2
# blur = lambda stack: np.stack([cv2.GaussianBlur(image, (0, 0), 3) for image in stack])
# second = categories[-1]
# row = trivial_scores(blur(train_images[second]), blur(test_images[second]))["pixel_z_score"]
# print(round(metrics.image_auroc(test_tables[second]["label"], row), 3))
# ```
# In *quick* it prints .444, in place of .482 in the table above. Blur cannot undo a rotation.
# </details>
#
# **2.** How uncertain is the number you just computed? Draw the test images again with replacement, 1000 times
# (`metrics.resample_weights`), and give the interval.
#
# <details><summary>Solution</summary>
#
# ```python
# marks = test_tables[first]["label"].to_numpy()
# weights = metrics.resample_weights(marks, 1000)
# values = scores[first]["pixel_z_score"]
# aurocs = [metrics.image_auroc(np.repeat(marks, w), np.repeat(values, w)) for w in weights]
# print(np.quantile(aurocs, [0.025, 0.975]).round(3))
# ```
# In *quick* it prints [.845, .987] around .928: a difference of .02 between two methods says little on a test set of
# this size.
# </details>
#
# ## Save the artifact
#
# All images at one size, their masks and the table, in one zip: Colab's Drive is slow on many small files. The packages were
# written above; their zip is offered beside it.

# %%
path = prepare.prepare(run, root=ROOT or None, source=SOURCE)
artifact = artifacts.load("data")
print({key: artifact.manifest[key] for key in ("stage", "profile", "data_source", "categories", "seed", "metrics")})
artifacts.download(path)
artifacts.download(packages_path)

# %% [markdown]
# Every member of the zip stands in its manifest with a SHA-256; the next notebook refuses it if a byte differs, or
# if it was made in another profile. What comes back out is what went in:

# %%
again = index.read_category(prepare.unpack(artifact), first)
same = loading.load_images(list(again["image_path"])[:5], run.data.image_size)
assert np.array_equal(same, loading.load_images(list(first_table["image_path"])[:5], run.data.image_size))
print(f"{len(again)} images of {first} read back, pixels equal")

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * read images into one audited table, and looked at good parts, defects and masks;
# * seen that a mask must be resized by its nearest pixel, and what happens otherwise;
# * made two splits and asserted that no item is in two parts, nor any picture of it under another name;
# * computed the rows that need no model. They are not a joke: on bottles one of them is hard to beat.
#
# **Limits.** Drawn products are not photographs: they teach the method, they do not rank methods. Squeezing images to a
# square changes the aspect of products that are not square.
#
# MVTec AD is licensed under CC BY-NC-SA 4.0 by MVTec Software GmbH; drawn images are free of any licence question.
#
# **Next:** [02 · PaDiM](02_padim.ipynb) asks what is normal at each place, in the features of a network.
