# %% [markdown]
# # 01 · Data preparation: what a defect detector may see
#
# <!-- badge -->
#
# After this notebook you will be able to
#
# * **name** what MVTec AD contains, and where our images come from;
# * **show** how resizing a mask the wrong way changes the ground truth of every metric that counts pixels;
# * **cut** the test folder so that a classifier can be trained without seeing the images it is tested on;
# * **keep** two views of one item in the same part;
# * **measure** how well one can score with no model at all: every later method must do better;
# * **derive** a 95 % interval for such a measurement, and show which of two intervals keeps its promise.
#
# **Reads** nothing; **writes** `data.zip` and `packages.zip`, which the other notebooks read. **Minutes**: about one on 2 CPU
# cores in the profile *quick*, where the products are drawn by code. The profile *full* reads real MVTec AD from your disk. No
# GPU is used here.

# %%
# <setup>

# %%
import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from scipy.stats import norm

from mvtec_ad import artifacts, metrics, plotting, profile, synthetic
from mvtec_ad.data import catalog, index, loading, official, prepare, splits
from mvtec_ad.methods.baselines import trivial_scores
from mvtec_ad.notebooks import lesson, where_possible
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
# * `auto`: real MVTec AD, if `data/mvtec_anomaly_detection/` or `transfer/raw-data.zip` holds products (your own zip of its
#   folders; in Colab `artifacts.upload()` brings it). Then only these are used. If neither holds any, products are drawn by code;
# * `mvtec_ad`: the same two places; if neither holds products, an error says what to do;
# * `download`: the same two places; what is missing comes from MVTec's servers, 100 to 750 MB per product. The images are licensed
#   **CC BY-NC-SA 4.0**: name the authors, no commercial use, share under the same terms. Choose it only if you agree;
# * `synthetic`: drawn by code, always.
#
# `ROOT` comes before all of these: a folder with one folder per product, or an archive (`.zip`, `.tar.xz`) of such folders.

# %% [markdown]
# ## Five images first
#
# The package keeps one table with a row for each image: `split` is the folder it lies in (`train` or `test`), `defect` the kind of
# defect, `label` 1 for a defect and 0 for a good part, and `group` the physical item that the image shows.

# %%
table, sources = prepare.read_all(run.data.categories, settings=run.data, root=ROOT or None, source=SOURCE)
categories = list(sources)  # missing products are named above, and left out
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
# The outlined regions are the ground truth, the *masks*. Look for two things: how large a defect is compared with the part, and how
# the parts lie.
#
# ## What MVTec AD is
#
# Fifteen products and textures: 3629 good images to learn from, 467 good and 1258 defective ones to be tested on, 73 kinds of
# defect (Bergmann et al., CVPR 2019). Training images show **no** defect: the task, *anomaly detection*, is to learn what
# normal parts look like, and to notice everything that deviates.

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
# Look at the light-blue part, the good test images: 12 of toothbrush, 20 of bottle. The *false-alarm rate*, the share of good
# images that are called defective, can change only in steps of 5 % where there are 20. This is why most numbers in these
# notebooks have an interval.
#
# ## An audit before an experiment
#
# A missing mask or a doubled image changes a result without any error message. `index.read_category` refuses such folders, and
# `index.audit` compares the counts with the official ones.
#
# Counts can be equal although the pictures are not: a copy saved at half the size, a file cut off in a download, training and test
# images exchanged. `official.report` therefore compares every file's SHA-256 (a checksum of its bytes) with that of the
# official archive, and names what is damaged, missing, resized, moved, renamed or foreign. For drawn images it prints nothing.

# %%
for category in categories:
    rows = table[table["category"] == category]
    differences = index.audit(rows)
    print(f"{category}: {'equals the official counts' if not differences else '; '.join(differences[:2]) + ' …'}")
    if line := official.report(rows, progress=False):
        print(line)

# %% [markdown]
# Drawn images differ from the official counts. They are labelled `synthetic` in every table and file that follows, so that nobody
# compares their numbers with published ones.
#
# ## Products drawn by code
#
# Seven products of MVTec AD can be drawn, with all their kinds of defect, from nothing but a seed. A row per product: good
# parts (blue titles), then one of each defect (orange).

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
# Drawing gives what photographs cannot: **the same part with and without its defect**. Pose, light and sensor noise are drawn
# independently of the defect, so the two pictures differ at the defect: the cell asserts that more than nine in ten of the
# changed pixels lie inside the mask. The defect changes the object before it is lit: on the dented capsule highlights and print
# bend too.

# %%
good_part, bad_part = (synthetic.draw("capsule", 5, defect, size=256) for defect in (None, "squeeze"))
difference = np.abs(good_part.image.astype(int) - bad_part.image).max(-1).astype(np.uint8)
changed = difference > 0
assert changed[bad_part.mask].any()
assert (changed & bad_part.mask).sum() > 0.9 * changed.sum()
plotting.gallery(
    [good_part.image, bad_part.image, np.minimum(difference * 3, 255).astype(np.uint8), bad_part.image],
    titles=["good", f"squeeze, severity {bad_part.severity:.2f}", "difference × 3", "outline of the mask"],
    masks=[good_part.mask, good_part.mask, good_part.mask, bad_part.mask],
    columns=4,
)

# %% [markdown]
# The *severity* of a defect, from .1 (barely visible) to 1 (obvious), is drawn at random before anything is scored and stands in
# the table. Where the range begins is a setting, `least_severity`: *quick* draws defects from .5 on, so that few images are enough
# to see what a method does; *full* and the default take the whole range.

# %%
defective = table[table["label"] == 1]
if "severity" in defective and (defective["severity"] > 0).any():
    print(f"severities of our defects: {defective['severity'].min():.2f} to {defective['severity'].max():.2f}")
print(f"least_severity of profile {run.name}: {run.data.least_severity}")

# %% [markdown]
# *From which severity on is a defect found?* That question needs the whole range, and a detector: notebook 04 asks it of cartons.
# Here is what severity does to a picture: the same five bottles and stains, with severities drawn from .1 on (above) and from .5
# on (below). Object, light and noise are equal. Then 40 stains in numbers: their area, and the mean change of a pixel inside them.

# %%
stains = [
    (seed, least, synthetic.draw("bottle", seed, "contamination", least_severity=least))
    for least in (0.1, 0.5)
    for seed in range(5)
]
plotting.gallery(
    [part.image for _, _, part in stains],
    titles=[f"severity {part.severity:.2f}" for _, _, part in stains],
    masks=[part.mask for _, _, part in stains],
    labels=[1] * len(stains),
    columns=5,
)

# %%
of_severity = [synthetic.draw("bottle", seed, "contamination", size=128) for seed in range(40)]
without = [synthetic.draw("bottle", seed, size=128).image.astype(int) for seed in range(40)]
severity = np.array([part.severity for part in of_severity])
area = [100 * part.mask.mean() for part in of_severity]
contrast = [
    np.abs(part.image - good).max(-1)[part.mask].mean() if part.mask.any() else 0
    for part, good in zip(of_severity, without, strict=True)
]

# %%
measured = {"area, % of the image": area, "change inside the mask, grey levels": contrast}
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for axis, (word, values) in zip(axes, measured.items(), strict=True):
    axis.plot(severity, values, "o", color=plotting.DEFECT, alpha=0.6)
    axis.axvspan(0.5, 1, color="0.9", zorder=0)
    axis.set(xlabel="severity", ylabel=word, xlim=(0.05, 1.05))
figure.suptitle("40 stains on drawn bottles; shaded: the severities that quick draws")
plt.show()

# %% [markdown]
# The points scatter, so count: take every pair of one stain from the shaded range and one from the left of it. In which share of
# the pairs is the stain from the shaded range the larger one, and the more visible one? A severity without effect would give one half.
# (This share returns below under its usual name, AUROC, together with the interval.)

# %%
strong = severity >= 0.5
for word, values in measured.items():
    share = metrics.image_auroc(strong, values)  # share of pairs, ties count one half
    low, high = metrics.newcombe(share, strong.sum(), (~strong).sum())
    lesson(f"{word}: larger in {share:.0%} of the pairs [{low:.0%}, {high:.0%}]", low > 0.5, run, "synthetic")

# %% [markdown]
# So the stains that *quick* leaves out are mostly the smaller and fainter ones, and a detector's numbers there are likely to look
# better than over the whole range. How hard each product is over the
# whole range, and how far drawn bottles are from photographed ones, is measured in the data card,
# `mvtec_ad/synthetic/README.md`.
#
# ## How a mask survives a resize
#
# The masks of MVTec AD are up to 1024 pixels wide, the images that a network sees often 256. A mask is a set of pixels, not a
# picture: averaging neighbours gives values between 0 and 1, and one must decide which of them count as defective. By hand
# on a 4×4 mask that becomes 2×2:

# %%
small = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
block = small.reshape(2, 2, 2, 2).mean((1, 3))  # share of defect in each 2×2 block
print("share of defect:", block.tolist())
print("any pixel > 0  :", (block > 0).astype(int).tolist())
print("nearest        :", loading.resize(small, 2).astype(int).tolist())

# %% [markdown]
# "Any pixel > 0" calls a quarter-covered block defective: the mask has grown from 5 of 16 pixels (31 %) to 2 of 4 (50 %).
# The package takes the value of the *nearest* pixel of the large mask: here the single pixel is lost, which leaves 25 %. The same
# two rules on all masks of this product (drawn masks are 256 pixels wide, so at 256 nothing changes):

# %%
defective = first_table[first_table["mask_path"] != ""]
full_size = [loading.read_mask(path) for path in defective["mask_path"]]
if not full_size:
    print(f"{first} has no masks: where its defects lie is left out, and drawn masks are resized here")
    full_size = [part.mask for part in parts if part.mask.any()]


def any_pixel(mask, size):
    """Average the mask, then count every pixel above 0."""
    return loading.resize(mask.astype(np.uint8)[..., None].repeat(3, 2) * 255, size)[..., 0] > 0


rules = {"any pixel > 0 after averaging": any_pixel, "nearest (this package)": loading.resize}
growth = {
    (rule, size): [resize(mask, size).mean() / mask.mean() for mask in full_size]
    for rule, resize in rules.items()
    for size in (256, 128, 64, 32)
}

# %%
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for rule, color in zip(rules, (plotting.DEFECT, plotting.GOOD), strict=True):
    sizes = [size for name, size in growth if name == rule]
    axes.plot(sizes, [np.mean(growth[rule, size]) for size in sizes], "o-", color=color, label=rule)
axes.set(xscale="log", xticks=sizes, xticklabels=sizes, xlabel="side after resizing, pixels")
axes.set(ylabel="mask area after / before, mean", title=f"{first}: what resizing does to a mask")
axes.axhline(1, color="0.7", zorder=0)
axes.minorticks_off()
axes.legend()
plt.show()

# %%
grown = np.mean(np.array(growth["any pixel > 0 after averaging", 32]) > 1)
low, high = metrics.wilson(grown, len(full_size))
lesson(f"any pixel > 0, 32 px: {grown:.0%} of the masks grow [{low:.0%}, {high:.0%}]", low > 0.5, run, "synthetic")
larger = np.array([mask.mean() for mask in full_size]) > np.median([mask.mean() for mask in full_size])
if 0 < larger.sum() < len(larger):
    share = metrics.image_auroc(~larger, growth["any pixel > 0 after averaging", 32])
    low, high = metrics.newcombe(share, (~larger).sum(), larger.sum())
    print(f"in {share:.0%} of the pairs [{low:.0%}, {high:.0%}] the smaller mask grows by the larger factor")
ratio = np.array(growth["nearest (this package)", 32])
reach = 1.96 * ratio.std(ddof=1) / np.sqrt(len(ratio)) if len(ratio) > 1 else 0
print(f"nearest, 32 px: mean area × {ratio.mean():.3f} ± {reach:.3f} (95 % interval)")

# %% [markdown]
# On average a nearest mask keeps its area; the other rule inflates it, small masks most. A *pixel metric*, which asks of every
# pixel whether it lies inside a mask, then measures against another ground truth.
#
# ## Where defects lie, and how large they are

# %%
kinds = defective["defect"] if len(defective) else ["drawn"] * len(full_size)
fractions = pd.DataFrame({"defect": kinds, "percent": [100 * mask.mean() for mask in full_size]})
figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained", width_ratios=[1.4, 1])
look = {"color": plotting.DEFECT, "alpha": 0.6, "size": 8, "jitter": False, "ax": left_axes}
sns.stripplot(fractions.sort_values("defect", ascending=False), x="percent", y="defect", **look)
left_axes.set(xscale="log", ylabel="", xlabel="defective area, % of the image (logarithmic)")
left_axes.xaxis.set_major_formatter("{x:g}")
left_axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}".strip("0.")[:1] in "25" else "")
left_axes.set_title(f"{first if len(defective) else 'drawn products'}: size of each defect")
where = np.mean([loading.resize(mask, 64) for mask in full_size], axis=0)
picture = right_axes.imshow(where, cmap=plotting.ANOMALY_MAP)
plotting.bare(right_axes)
right_axes.set_title("share of the masks that cover a pixel")
figure.colorbar(picture, ax=right_axes)
plt.show()

# %% [markdown]
# The score of a whole image must notice a defect that covers a small part of it. That is why most methods of this suite score
# *positions* first, as an *anomaly map*, and take its largest value as the score of the image.
#
# ## Two splits, two questions
#
# * **official**: learn from `train/good`, test on everything in `test`. For *one-class* methods, which learn from good images only.
# * **supervised**: a classifier must also learn from defects, and in MVTec AD these exist in the test folder only. So that folder
#   is cut into train, validation (to choose settings by) and test. One-class methods are compared with classifiers on
#   that same last part only.
#
# The cut respects two things. Every kind of defect is cut in the same shares. And a **group**, all pictures of one
# physical item, stays together.

# %%
draw = plotting.Schematic(9, 3.5)
for y, text in ((3.1, "official split"), (2.15, "folders"), (1.2, "supervised split"), (0.55, "groups")):
    draw.text(text, 0.1, y, ha="left", size=10)
blue, red, green, grey = "#CFE2F3", "#F6D5BF", "#D9EAD3", "#EEEEEE"
good = draw.box("train/good", 3.0, 2.15, 2.8, colour=grey)
tested = draw.box("test/good and test/DEFECT", 6.7, 2.15, 4.3, colour=grey)
draw.arrow(good, draw.box("train", 3.0, 3.1, 2.8, colour=blue))
draw.arrow(tested, draw.box("test", 6.7, 3.1, 4.3, colour=red))
draw.arrow(good, draw.box("train", 3.0, 1.2, 2.8, colour=blue))
for part, x, width, colour in (
    ("train: 50 %", 5.6, 2.1, blue),
    ("validation:\n20 %", 7.2, 0.98, green),
    ("test: 30 %", 8.3, 1.1, red),
):
    box = draw.box(part, x, 1.2, width, colour=colour)
    draw.arrow(tested._replace(x=x, width=width), box)
for x, count in ((3.0, 5), (5.6, 3), (7.2, 1), (8.3, 2)):
    draw.text("   ".join(["●–●"] * count), x, 0.55)
draw.text("●–● two pictures of one item: always in the same part", 5.2, 0.2)
draw.figure

# %%
of_category = dict(list(table.groupby("category")))
cuts = where_possible(lambda name: splits.supervised(of_category[name], seed=0), categories)
cut = pd.concat([table.head(0).assign(part=""), *cuts.values()])
parts = cut[cut["split"] == "test"].groupby(["category", "defect", "part"]).size().unstack("part")
assert not cut["group"].duplicated().any() or cut.groupby("group")["part"].nunique().max() == 1
parts.reindex(columns=["train", "validation", "test"])

# %% [markdown]
# The assertion is the important line: no item is in two parts. Here it is easy to keep, because every item has one picture.
#
# ## Items seen from two sides
#
# On a packing line two cameras look at each carton, one from the side and one from the top. Damaged cartons are available for
# training, so they are our example for classifiers. MVTec AD has no such product, so cartons are drawn, even where the other
# products are real.
#
# To use your own cartons, put a folder `package` beside the products, or a zip of it at `transfer/raw-data.zip`. The layout
# `{damaged,intact}/{side,top}/` of the data set *Industrial Quality Control of Packages* (`data/README.md`) is read too; there the
# tenth of the items with the lowest numbers becomes the test part. Cartons are written at full size to a file of their own,
# `packages.zip`.

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
    least = 256 * np.sqrt(min(covered) / 100)
    print(
        f"the box around a damage covers {np.median(covered):.1f} % of the picture (median), at least {min(covered):.1f} %,"
    )
    print(f"which in a picture of 256×256 pixels is a square of {least:.0f} pixels a side")
else:
    print("these packages came without boxes: none are drawn below")

# %%
items = [*intact["group"].unique()[:1], *damaged["group"].unique()[:2]]
shown = packages[packages["group"].isin(items)].sort_values(["view", "label", "group"])
plotting.gallery(
    [loading.read_image(path) for path in shown["image_path"]],
    titles=[f"{row.view}, {row.defect}" for row in shown.itertuples()],
    masks=[inside_box(path) for path in shown["box_path"]],
    labels=list(shown["label"]),
    columns=3,
    size=2.9,
)

# %% [markdown]
# One carton per column, its side above, its top below. Around an intact carton the box shows where it stands; around a damaged
# one it shows the damage only. In a whole picture at 256 pixels a small damage has few pixels, so notebooks 04 and 05
# cut the carton out first. Only test images have boxes, so nobody can train on them.
#
# Now two ways to hold out a quarter of the training pictures for validation: by picture, and by item.

# %%
learning = packages[packages["split"] == "train"]
ways = {"by picture": np.random.default_rng(0).random(len(learning)) < 0.25, "by item": splits.hold_out(learning, 0.25)}
torn = {way: pd.Series(held_out, learning["group"]).groupby("group").nunique() == 2 for way, held_out in ways.items()}
for way, held_out in ways.items():
    print(
        f"{way}: {held_out.mean():.0%} of the pictures held out, {torn[way].sum()} of {len(torn[way])} items torn apart"
    )
assert not torn["by item"].any()
low, _ = metrics.wilson(torn["by picture"].mean(), len(torn["by picture"]))
lesson(
    "a cut by picture tears more than one item in ten apart", low > 0.1, run, packages_artifact.manifest["data_source"]
)

# %% [markdown]
# Each of two pictures is held out with probability ¼, so 2 · ¼ · ¾ = 38 % of the items are torn apart on average; the draw
# above tears fewer in *quick*. The classifier would then be validated on cartons that it has learnt from the other side.
#
# Here the training items have defects too, so the supervised split leaves the test items alone and cuts the training items.
# `check_separate` then compares the pixels of all pictures, because a copy under a new name passes every check of names.

# %%
packages_cut = splits.supervised(packages)
splits.check_separate(packages_cut, packages_cut["part"])
packages_cut.drop_duplicates("group").groupby(["defect", "part"]).size().unstack("part")[
    ["train", "validation", "test"]
]

# %% [markdown]
# ## With no model at all
#
# What do the good images tell without any network? Left a good part, in the middle the mean of all good parts, right the standard
# deviation of each pixel among them.

# %%
train_images = {
    category: loading.load_images(list(of_category[category].query("split == 'train'")["image_path"]), 128)
    for category in categories
}
figure = plotting.new_figure(7.5, 2.6 * len(categories))
axes = figure.subplots(len(categories), 3, squeeze=False)
for row, category in zip(axes, categories, strict=True):
    stack = train_images[category].astype(np.float32)
    row[0].imshow(train_images[category][0])
    row[1].imshow(stack.mean(0).astype(np.uint8))
    row[2].imshow(stack.std(0).mean(-1), cmap=plotting.ANOMALY_MAP)
    for axis, title in zip(row, ("one good part", "mean of good parts", "standard deviation"), strict=True):
        plotting.bare(axis)
        axis.set_title(f"{category}: {title}")
figure

# %% [markdown]
# Where parts always stand in the same place, as the bottle does, the mean is sharp, and a pixel outside its usual range is
# a sign of a defect. The screw lies at any angle: its mean is blurred, and no pixel that it may cover has a usual value.
#
# **The idea**: score each pixel by how far it leaves its usual range, in units of its own standard deviation. With the mean
# $\mu_p$ and the standard deviation $\sigma_p$ of pixel $p$ over the good training images, both in gray levels, the *z-score* of a
# test image $x$ is
#
# $$z_p = \frac{|x_p - \mu_p|}{\sigma_p + 5}, \qquad \text{score}(x) = \max_p\,\text{smooth}(z)_p .$$
#
# The 5 gray levels are added so that a pixel that hardly ever changes does not decide alone; *smooth* averages the three colours
# and blurs. The cell computes it by hand and asserts that the package gets the same. Beside it stand other trivial scores: one
# score for all images (`all_defective`), the mean intensity and its negative, and the distance to the mean image without $\sigma_p$.

# %%
test_tables = {name: rows[rows["split"] == "test"] for name, rows in of_category.items()}
test_images, scores = {}, {}


def z_score_maps(good, images):
    """Smoothed z-scores, (N, 128, 128): an anomaly map for each image."""
    good, images = good.astype(np.float32), images.astype(np.float32)  # (N, 128, 128, 3)
    z = np.abs(images - good.mean(0)) / (good.std(0) + 5)
    return np.stack([cv2.GaussianBlur(each.mean(-1), (0, 0), 2, borderType=cv2.BORDER_REFLECT) for each in z])


def without_model(category):
    """Image AUROC of the trivial scores of a product, with intervals."""
    test_images[category] = loading.load_images(list(test_tables[category]["image_path"]), 128)
    scores[category] = trivial_scores(train_images[category], test_images[category])
    labels = test_tables[category]["label"].to_numpy()
    return {name: metrics.evaluate(labels, [values])["image_auroc"] for name, values in scores[category].items()}


trivial = where_possible(without_model, categories)
z_maps = {category: z_score_maps(train_images[category], test_images[category]) for category in trivial}
for category, maps in z_maps.items():
    assert np.allclose(maps.max((1, 2)), scores[category]["pixel_z_score"])
pd.DataFrame(trivial).map(metrics.format_metric)

# %% [markdown]
# **AUROC** (area under the ROC curve): take every pair of one defective and one good test image; it is the share of pairs in
# which the defective image has the higher score (ties count one half). 1 is perfect, and .5 is chance. The brackets hold a
# 95 % interval, which the next section derives; where it contains .5, the verdict below is *undecided*.

# %%
for category, rows in trivial.items():
    value = rows["pixel_z_score"]
    decided = metrics.verdict(value["low"] - 0.5, value["high"] - 0.5, "better than chance", "worse than chance")
    print(f"{category}, z-score: {metrics.format_metric(value)}: {decided}")
if {"bottle", "screw"} <= set(trivial):
    source, (bottle, screw) = sources["bottle"], (trivial[name]["pixel_z_score"] for name in ("bottle", "screw"))
    lesson("the z-score finds defects of bottles", bottle["low"] > 0.5, run, source)
    lesson("on screws it cannot be told from chance", screw["low"] < 0.5 < screw["high"], run, source)

# %% [markdown]
# The maps show why. For each product a good image and a defective one, and beside each its map of z-scores:

# %%
for category in list(trivial)[:2]:
    labels = test_tables[category]["label"].to_numpy()
    order = [np.flatnonzero(labels == label)[0] for label in (0, 1)]
    shown_masks = loading.load_masks(test_tables[category].iloc[order], 128)
    about = {"masks": shown_masks, "labels": labels[order], "scores": z_maps[category].max((1, 2))[order]}
    display(plotting.anomaly_map_gallery(test_images[category][order], z_maps[category][order], **about))

# %% [markdown]
# **This is the failure case of methods that model each position**: on the screw the map follows the screw itself, good or defective.
# Notebook 02 comes back to it. On *real* MVTec AD bottles the z-score comes near to PaDiM with a pretrained network
# ([README](../README.md)). PaDiM's number alone would not show how easy that product is.
#
# The *ROC curve* shows every threshold at once: the false-alarm rate to the right, the share of defects found (the *detection rate*
# or *recall*) upwards. The *precision–recall curve* has the share of alarms that are true defects (*precision*) upwards; the area
# under it is **AP**, average precision.

# %%
for category in list(trivial)[:1]:
    two = {name: scores[category][name] for name in ("pixel_z_score", "distance_to_mean")}
    display(plotting.roc_and_pr(test_tables[category]["label"].to_numpy(), two))

# %% [markdown]
# The dotted line of the right panel is the share of defects in the test folder: calling *everything* defective already has that
# precision. **F1** is the harmonic mean of precision and recall, 2 · precision · recall / (precision + recall). For the same reason
# the largest F1 over all thresholds cannot be below a value well above 0:

# %%
for category in trivial:
    marks = test_tables[category]["label"].to_numpy()
    floor = 2 * marks.mean() / (1 + marks.mean())  # precision = share of defects, recall = 1
    assert abs(floor - metrics.f1_max(marks, np.ones(len(marks)))[0]) < 1e-12
    print(f"{category}: F1 of calling everything defective = {floor:.3f}")

# %% [markdown]
# ## How sure is such a number?
#
# Other test images would have given another AUROC. A *95 % interval* is a rule that turns a test set into a range, and it promises
# that over many test sets 95 % of the ranges hold the true value. The share that really do is its **coverage**. We compare two rules.
#
# **Percentile bootstrap.** Draw the test images again with replacement, good and defective ones apart, many times; compute the
# AUROC of each such *resample*, and take the quantiles .025 and .975. It needs no formula. What does it say of a test set in which
# every defective image scores above every good one?

# %%
defects, good = 63, 20  # as in MVTec AD's bottle
pairs = np.ones((defects, good))  # 1 where the defective image scores higher, 0 where the good one does
drawn = metrics.resample_weights(np.arange(defects + good) < defects, 300).astype(float)  # (300 resamples, images)


def resampled_aurocs(pairs, drawn):
    """AUROC of each resample: `drawn` says how often it holds each image, defective ones first."""
    return (drawn[:, : len(pairs)] @ pairs * drawn[:, len(pairs) :]).sum(1) / pairs.size


low, high = np.quantile(resampled_aurocs(pairs, drawn), [0.025, 0.975])
print(f"no pair is wrong: percentile bootstrap [{low:.3f}, {high:.3f}]")
assert low == high == 1

# %% [markdown]
# The interval is a single point: it claims to be certain. Every resample of a perfect test set is perfect: no resample
# contains a mistake that the test set does not contain.
#
# **Newcombe's interval** (2006, method 5) asks the other way round: *from which true values $\theta$ could the observed $A$
# have come?* From every $\theta$ that is at most $z = 1.96$ standard deviations away from $A$. The standard deviation is the one that
# $\theta$ would give, not the one estimated from $A$:
#
# $$|\theta - A| \le z\,\sqrt{V(\theta)}$$
#
# The variance of an AUROC from $m$ defective and $n$ good images (Hanley and McNeil 1982) takes into account that pairs share images:
#
# $$V(\theta) = \frac{\theta(1-\theta) + (m-1)(Q_1 - \theta^2) + (n-1)(Q_2 - \theta^2)}{m\,n}$$
#
# $Q_1$ is the probability that two defective images both score above one good image, $Q_2$ that one defective image scores above two
# good ones. If scores are exponentially distributed, $Q_1 = \theta/(2-\theta)$ and $Q_2 = 2\theta^2/(1+\theta)$, so
#
# $$Q_1 - \theta^2 = \theta(1-\theta)\,\frac{1-\theta}{2-\theta}, \qquad
# Q_2 - \theta^2 = \theta(1-\theta)\,\frac{\theta}{1+\theta} .$$
#
# Newcombe puts the mean $N^* = (m+n)/2 - 1$ in place of $m-1$ and $n-1$:
#
# $$V(\theta) = \frac{\theta(1-\theta)}{m\,n}\left[1 + N^*\left(\frac{1-\theta}{2-\theta} + \frac{\theta}{1+\theta}\right)\right]$$


# %%
def deviation(theta, defects, good):
    """Standard deviation √V(θ) of an AUROC."""
    half = (defects + good) / 2 - 1  # N*
    shared = 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return np.sqrt(theta * (1 - theta) * shared / (defects * good))


def newcombe_by_hand(auroc, defects, good):
    """Ends of all θ at most 1.96 standard deviations away."""
    theta = np.linspace(0, 1, 100_001)
    inside = theta[np.abs(theta - auroc) <= 1.96 * deviation(theta, defects, good)]
    return inside.min(), inside.max()


for auroc in (0.7, 0.95, 1.0):
    by_hand, by_package = newcombe_by_hand(auroc, defects, good), metrics.newcombe(auroc, defects, good)
    print(
        f"AUROC {auroc}: by hand [{by_hand[0]:.3f}, {by_hand[1]:.3f}], by package [{by_package[0]:.3f}, {by_package[1]:.3f}]"
    )
    assert np.allclose(by_hand, by_package, atol=1e-4)

# %%
theta = np.linspace(0.7, 1, 1000)
figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.9), sharey=True, layout="constrained")
for axis, auroc in zip(axes, (0.95, 1.0), strict=True):
    low, high = newcombe_by_hand(auroc, defects, good)
    axis.plot(theta, np.abs(theta - auroc), color="black", label="distance |θ − A|")
    axis.plot(theta, 1.96 * deviation(theta, defects, good), color=plotting.GOOD, label="allowed: z √V(θ)")
    axis.axvspan(low, high, color="0.9", zorder=0, label="interval")
    axis.set(xlabel="true AUROC θ", title=f"A = {auroc:g}: from {low:.3f} to {high:.3f}")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# The interval is where the black line lies below the blue one. The blue line falls to 0 at θ = 1, so the upper end never exceeds 1;
# and even for a perfect test set (right) true values below 1 remain possible.
#
# **Which rule keeps its promise?** Simulate: scores of good images are normal, those of defective ones are shifted by
# $\sqrt 2\,\Phi^{-1}(\theta)$, so that the true AUROC is $\theta$ exactly ($\Phi$: the normal distribution function). Draw 500 test
# sets, and count how often each interval holds $\theta$. By definition, Newcombe's holds it if $|\theta - A| \le z\sqrt{V(\theta)}$.


# %%
def coverage(true_auroc, defects, good, test_sets=500):
    """Shares of simulated test sets whose bootstrap and whose Newcombe interval hold the true AUROC."""
    rng = np.random.default_rng(0)
    drawn = metrics.resample_weights(np.arange(defects + good) < defects, 300).astype(float)
    held = []
    for _ in range(test_sets):
        defective = rng.normal(np.sqrt(2) * norm.ppf(true_auroc), 1, defects)
        pairs = (defective[:, None] > rng.normal(0, 1, good)).astype(float)  # (defects, good)
        low, high = np.quantile(resampled_aurocs(pairs, drawn), [0.025, 0.975])
        near = abs(pairs.mean() - true_auroc) <= 1.96 * deviation(true_auroc, defects, good)
        held.append([low <= true_auroc <= high, near])
    return np.mean(held, axis=0)


true_aurocs = (0.9, 0.95, 0.98, 0.99, 0.999)
test_sizes = {
    "bottle": (63, 20),
    "toothbrush": (30, 12),
    "screw": (119, 41),
}  # defective and good test images, MVTec AD
covered = np.array([[coverage(true, *size) for true in true_aurocs] for size in test_sizes.values()])  # (3, 5, 2)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for rule, (axis, title) in enumerate(zip(axes, ("percentile bootstrap", "Newcombe"), strict=True)):
    for place, (name, (defects, good)) in enumerate(test_sizes.items()):
        low, high = np.transpose([metrics.wilson(share, 500) for share in covered[place, :, rule]])
        x, share = np.arange(len(true_aurocs)) + 0.1 * (place - 1), covered[place, :, rule]
        look = {"color": plotting.METHOD_COLOURS[place], "label": f"{defects} defective, {good} good ({name})"}
        axis.errorbar(x, share, (share - low, high - share), fmt="o-", capsize=3, **look)
    axis.axhline(0.95, color="black", linestyle="--", linewidth=1)
    axis.text(0, 0.965, "promised: .95", va="bottom") if rule == 0 else None
    axis.set(xticks=range(len(true_aurocs)), xticklabels=true_aurocs, xlabel="true AUROC", title=title, ylim=(0, 1.05))
axes[0].set_ylabel("coverage in 500 test sets")
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %%
most = np.vectorize(lambda share: metrics.wilson(share, 500)[1])(covered)  # upper end of each coverage's own interval
bootstrap, newcombe = covered[:, 2:, 0], covered[..., 1]
print(f"AUROC .98 or more: the bootstrap holds it {bootstrap.min():.0%} to {bootstrap.max():.0%} of the time")
print(f"all cells: Newcombe's interval holds it {newcombe.min():.0%} to {newcombe.max():.0%} of the time")
lesson(
    "from AUROC .98 on the percentile bootstrap covers less than 95 %", (most[:, 2:, 0] < 0.95).all(), run, "synthetic"
)
lesson("no cell shows Newcombe's interval below its 95 %", (most[..., 1] >= 0.95).all(), run, "synthetic")

# %% [markdown]
# Just where good methods lie, near AUROC 1, the bootstrap fails. This suite therefore gives AUROC Newcombe's interval. It does
# not always keep its promise either: `mvtec_ad/metrics/intervals.py` has a larger simulation, with one size of test set
# (20 defective, 40 good) where its coverage clearly falls below 95 %.
#
# ## Yours, reported, verdict
#
# Only the counts of this notebook can be compared with published ones.

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
# These go on with what this notebook holds. [Lab 01](../course/labs/01_data_preparation.ipynb) has more, on small arrays, with checks that say what differs.
#
# **1.** The z-score compares each pixel with itself. Blur the images first (`cv2.GaussianBlur(image, (0, 0), 3)`) and
# compute its AUROC again for the last category. Does blur help where parts move?
#
# <details><summary>Solution</summary>
#
# ```python
# blur = lambda stack: np.stack([cv2.GaussianBlur(image, (0, 0), 3) for image in stack])
# last = categories[-1]
# row = trivial_scores(blur(train_images[last]), blur(test_images[last]))["pixel_z_score"]
# print(metrics.format_metric(metrics.evaluate(test_tables[last]["label"].to_numpy(), [row])["image_auroc"]))
# ```
# In *quick* the interval still contains one half: blur cannot undo a rotation.
# </details>
#
# **2.** A method has AUROC 1 on a test set of $n$ defective and $n$ good images. How large must $n$ be before Newcombe's interval
# begins at .99 or above? And how far down does it reach for MVTec AD's toothbrush, 30 defective and 12 good images?
#
# <details><summary>Solution</summary>
#
# ```python
# print(next(n for n in range(1, 1000) if metrics.newcombe(1.0, n, n)[0] >= 0.99))
# print(metrics.newcombe(1.0, 30, 12))
# ```
# It prints 194 images of each kind, and an interval from .88 to 1: a perfect score on toothbrush says little more than "above .88".
# </details>
#
# ## Save the artifact
#
# All images at one size, their masks and the table, in one zip. The packages were written above; in Colab both are offered for
# download.

# %%
path = prepare.prepare(run, root=ROOT or None, source=SOURCE)
artifact = artifacts.load("data")
print({key: artifact.manifest[key] for key in ("stage", "profile", "data_source", "categories", "seed", "metrics")})
artifacts.download(path)
artifacts.download(packages_path)

# %% [markdown]
# The zip lists every file in it with its SHA-256; a notebook that reads it refuses it if a byte differs, or if it was made in
# another profile. What comes out is what went in:

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
# * computed rows that need no model: on drawn bottles the z-score finds defects, on drawn screws it cannot be told from chance;
# * derived Newcombe's interval, and shown that it covers what it promises where the percentile bootstrap does not.
#
# **Limits.** Drawn products are not photographs: they teach methods, they do not rank them. The coverage was simulated for normal
# scores of equal spread. Squeezing images to a square changes the aspect of products that are not square.
#
# MVTec AD is licensed under CC BY-NC-SA 4.0 by MVTec Software GmbH; drawn images are under the licence of this project.
#
# **Next:** [02 · PaDiM](02_padim.ipynb) asks what is normal at each position, in the features of a network.
