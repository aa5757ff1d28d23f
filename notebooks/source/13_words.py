# %% [markdown]
# # 13 · Words: a search engine for defects, CLIP in small
#
# <!-- badge -->
#
# "Show me the scratches near the head." A line has thousands of pictures of defects and nobody has labelled them all. After this notebook you will be
# able to
#
# * **describe** a defect in a sentence, from what its drawing or its mask tells, in English, Portuguese and Spanish;
# * **derive** InfoNCE both ways on three pairs, and write the network and its training loop by hand;
# * **search** images by words, name images by words, and ask for "like this, but smaller";
# * **measure** it against chance: on images, sentences, words and combinations that were never seen, in each language;
# * **say** what such a model does not understand, and show it.
#
# **It reads** nothing: it learns from defects that are drawn here, since of these everything is known. Profile *quick*: about a minute on 2 CPU
# cores, two products. Profile *full*: seven. The image features are frozen, with ImageNet weights in both.
#
# Radford et al., *Learning Transferable Visual Models From Natural Language Supervision* (CLIP), 2021,
# [arXiv:2103.00020](https://arxiv.org/abs/2103.00020); van den Oord, Li, Vinyals, *Representation Learning with Contrastive Predictive Coding*
# (InfoNCE), 2018, [arXiv:1807.03748](https://arxiv.org/abs/1807.03748); Bojanowski et al., *Enriching Word Vectors with Subword Information*, 2017,
# [arXiv:1607.04606](https://arxiv.org/abs/1607.04606).

# %%
# <setup>

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from IPython.display import display
from sklearn.decomposition import PCA
from torch import nn

from mvtec_ad import artifacts, metrics, pages, plotting, profile, synthetic
from mvtec_ad.benchmark.defect_types import over_types
from mvtec_ad.config import data_folder, pin, torch_device, transfer_folder
from mvtec_ad.data import index, loading
from mvtec_ad.methods import words
from mvtec_ad.methods.descriptions import (
    LANGUAGES,
    describe,
    distract,
    plain,
    queries,
    statements,
    templates,
    true_of,
    vocabulary,
)
from mvtec_ad.methods.padim import Padim
from mvtec_ad.methods.words import Words, grams_of, info_nce, retrieval
from mvtec_ad.notebooks import lesson, same_weights
from mvtec_ad.training import warm_cosine

# %%
PROFILE = "quick"  # @param ["quick", "full"]
PER_DEFECT = 0  # @param {type:"integer"}

run = profile(PROFILE)
pin(run)
model = Words.preset(run.name)
per_defect = PER_DEFECT or (24 if run.name == "quick" else 40)
categories = [name for name in run.data.categories if name in synthetic.CATEGORIES] or ["bottle", "screw"]
plt.rcParams.update(plotting.STYLE)
print(f"profile {run.name}; synthetic: {', '.join(categories)}; {per_defect} images of each defect")
print(f"{model.backbone}, weights {model.weights}, {model.image_size} px; {model.steps} steps")

# %%
root = data_folder() / "words"
count = {"train": 15, "test_good": 0, "per_defect": per_defect}
drawing = {**count, "size": 192, "seed": 13, "least_severity": run.data.least_severity, "progress": False}
for category in categories:
    synthetic.write_category(root, category, **drawing)
tables = [index.read_category(root, category) for category in categories]
described = model.gather(pd.concat(tables, ignore_index=True), copies=model.copies)
facts, rows = described.facts, described.table
print(f"{len(facts)} defects of {rows.groupby(['category', 'defect']).ngroups} types; a type has its product beside it")

# %% [markdown]
# ## Five images first
#
# One defect each, and what is known of it: product and type by its folder, severity by the drawing, place, size and colour by its mask.

# %%
five = np.linspace(0, len(facts) - 1, 5).astype(int)
pictures = loading.load_images(list(rows["image_path"].iloc[five]), 192)
titles = ["{product}\n{type}\n{place}, {size}\n{severity}".format(**facts[row]) for row in five]
plotting.gallery(list(pictures), titles=titles, columns=5, size=1.8)

# %% [markdown]
# ## From facts to sentences
#
# A description is made by a **template**. What stands in brackets falls away where a part is not said, and each part has several phrases of the same
# meaning. Some templates, and for each type one phrase, are **never learned from**: with these we shall ask.

# %%
rng = np.random.default_rng(1)
for language in LANGUAGES:
    for group in ("seen", "unseen"):
        template = templates(language, group)[1]
        print(f"{language}, {group:6}: {describe(facts[five[3]], template, language, rng)}")
print("\na template:", templates("en")[1])

# %% [markdown]
# In training a sentence says only some of the facts, so that short queries are understood as well. Then it may be **true of several images**:

# %%
sample = [facts[row] for row in np.random.default_rng(0).permutation(len(facts))[:12]]
stated, texts = statements(sample, np.random.default_rng(2))
true = true_of(stated, sample)  # text by image
figure, axis = plt.subplots(figsize=(8.6, 3.6), layout="constrained")
sns.heatmap(true, cbar=False, cmap=["#EEEEEE", plotting.GOOD], linewidths=1, ax=axis)
axis.set_yticks(np.arange(12) + 0.5, [text[:75] for text in texts], rotation=0, fontsize=7.5)
axis.set(xlabel="image", xticks=np.arange(12) + 0.5, title="true of it (blue)")
plt.show()

# %% [markdown]
# The diagonal is the image that a sentence was made for. Blue beside it: to call that image wrong would teach a falsehood.
#
# ## InfoNCE, both ways
#
# An image becomes a vector $u_i$, a text $v_j$, both of length 1. Their cosine over a temperature, $s_{ij}=u_i\cdot v_j/\tau$, says how well they fit. The loss
# is that of a classifier which names, for each image, its text among all of the batch, and for each text its image (Radford et al., figure 3):
#
# $$L=-\frac1{2N}\sum_i\Big(\log\frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}+\log\frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}}\Big).\tag{1}$$
#
# The temperature is learned too. Three pairs in the plane, by hand:

# %%
angles = np.radians([[0, 70, 160], [15, 95, 150]])  # of three images, and of their texts
u, v = (np.stack([np.cos(row), np.sin(row)], 1) for row in angles)  # 3×2 each
tau = 0.5
s = u @ v.T / tau  # 3×3
by_image = -np.log(np.exp(s).diagonal() / np.exp(s).sum(1))
by_text = -np.log(np.exp(s).diagonal() / np.exp(s).sum(0))
by_hand = (by_image.mean() + by_text.mean()) / 2
assert np.isclose(by_hand, info_nce(torch.from_numpy(u), torch.from_numpy(v), tau).item())
print(f"image to text {by_image.round(3)}, text to image {by_text.round(3)}; loss {by_hand:.3f}")
print(f"a blind guess among three costs log 3 = {np.log(3):.3f}")

# %% [markdown]
# Where a text is true of several images, the right answer is **shared** among these: the target of a row is no longer one text but an even share of all
# true ones.

# %%
shared = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]], bool)  # text 0 is true of image 2 as well
rows_of = np.log(np.exp(s) / np.exp(s).sum(1, keepdims=True))
columns_of = np.log(np.exp(s) / np.exp(s).sum(0, keepdims=True))
hand = -np.mean([rows_of[i][shared[i]].mean() for i in range(3)])
hand = (hand - np.mean([columns_of[:, j][shared[:, j]].mean() for j in range(3)])) / 2
package = info_nce(torch.from_numpy(u), torch.from_numpy(v), tau, torch.from_numpy(shared)).item()
assert np.isclose(hand, package)
print(f"with a shared answer {package:.3f}: the model may no longer push image 2 away from text 0")

# %% [markdown]
# ## Two encoders
#
# **Images**: the frozen network's layers 2 and 3, averaged over the whole image, inside the region of the defect, and around it. Averages tell
# neither place nor size. So these are given as numbers of the region: when this model finds "upper left", it has read the region's position, not
# seen it. The region is the mask here; below it comes from an anomaly map, and is left out.
#
# **Texts**: words are cut into n-grams of 3 to 5 letters, each n-gram has a vector, a text is the direction of their sum. Words with one stem share
# most n-grams:

# %%
pair = ("scratch", "scratched", "risco", "riscada", "crack")
shares = pd.DataFrame(
    {a: {b: len({*grams_of(a)} & {*grams_of(b)}) / len({*grams_of(a)} | {*grams_of(b)}) for b in pair} for a in pair}
)
print("n-grams of dent:", ", ".join(grams_of("dent")))
shares.round(2)

# %%
draw = plotting.Schematic(9, 2.9)
image = draw.box("image and\nregion", 0.9, 2.1, height=0.7)
frozen = draw.box("frozen layers:\nwhole, inside,\naround; numbers", 3.1, 2.1, height=0.9)
learned = draw.box("two learned\nlayers", 5.4, 2.1, height=0.7)
sentence = draw.box("sentence", 0.9, 0.6, height=0.6)
grams = draw.box("n-grams,\ntheir sum", 3.1, 0.6, height=0.7)
layers = draw.box("two learned\nlayers", 5.4, 0.6, height=0.7)
space = draw.box("one space:\ncosine / τ", 7.9, 1.35, height=0.8)
for start, end in (
    (image, frozen),
    (frozen, learned),
    (learned, space),
    (sentence, grams),
    (grams, layers),
    (layers, space),
):
    draw.arrow(start, end)
draw.figure


# %%
class TwoEncoders(nn.Module):
    """Images and texts into one space."""

    def __init__(self, grams, features):
        super().__init__()
        self.row_of = {gram: row for row, gram in enumerate(grams)}
        self.table = nn.EmbeddingBag(len(grams), model.width, mode="sum")
        nn.init.normal_(self.table.weight, std=0.1)
        hidden, size, drop = model.hidden, model.embedding, model.dropout
        self.text = nn.Sequential(nn.Linear(model.width, hidden), nn.ReLU(), nn.Linear(hidden, size))
        layers = (nn.Dropout(drop), nn.Linear(features, 2 * hidden), nn.ReLU(), nn.Dropout(drop))
        self.image = nn.Sequential(*layers, nn.Linear(2 * hidden, size))
        self.log_tau = nn.Parameter(torch.tensor(float(np.log(0.07))))

    def texts(self, texts):
        found = [[self.row_of[g] for word in plain(t) for g in grams_of(word) if g in self.row_of] for t in texts]
        starts = torch.tensor(np.cumsum([0, *map(len, found)])[:-1])
        sums = self.table(torch.tensor([row for text in found for row in text]), starts)  # N×64
        return self.text(F.normalize(sums, dim=1) * model.width**0.5)  # N×64, from numbers of unit spread

    def images(self, standardised):  # N×D
        return self.image(standardised.nan_to_num())  # what is not known counts as the mean


# %% [markdown]
# ## The training loop
#
# A part of the images is kept out: every third one to ask about, and one in six **combinations** of type and place as a whole, so that we can ask for what was
# never seen together.

# %%
combination = np.array([f"{row['product']} {row['type']}, {row['place']}" for row in facts])
unseen_together = np.isin(combination, np.random.default_rng(0).permutation(sorted(set(combination)))[::6])
held = (np.arange(len(facts)) % 3 == 0) & ~unseen_together
train = np.flatnonzero(~held & ~unseen_together)
held, new = np.flatnonzero(held), np.flatnonzero(unseen_together)
print(f"{len(train)} to learn from, {len(held)} held out, {len(new)} of combinations that are never learned from")

# %%
STEPS = 25  # enough to compare the loop by hand with the package's
learned_words = vocabulary(facts)
grams = sorted({gram for word in learned_words for gram in grams_of(word)})
features = torch.from_numpy(described.features[train])  # N×2×D: as it is, and with the region grown
flat = features.flatten(0, 1)
spread = flat.std(0)
standardised = (features - flat.mean(0)) / spread.clamp(min=0.05 * spread.median())
torch.manual_seed(0)
network = TwoEncoders(grams, features.shape[-1])
optimiser = torch.optim.AdamW(network.parameters(), lr=model.lr, weight_decay=1e-2)
region = model.widths[1]  # the last features, which tell of the region

# %%
for step in range(STEPS):
    for group in optimiser.param_groups:
        group["lr"] = model.lr * warm_cosine(step, STEPS)
    rng = np.random.default_rng([0, step])
    chosen = rng.permutation(len(train))[: model.batch]
    known = [facts[row] for row in train[chosen]]
    stated, texts = statements(known, rng)
    texts = [distract(text, learned_words, rng) if rng.random() < model.distraction else text for text in texts]
    seen = standardised[chosen, rng.integers(features.shape[1], size=len(chosen))]
    seen[torch.from_numpy(rng.random(len(chosen)) < model.blind), -region:] = torch.nan  # the whole image alone
    s = F.normalize(network.images(seen), dim=1) @ F.normalize(network.texts(texts), dim=1).T / network.log_tau.exp()
    true = torch.from_numpy(true_of(stated, known).T).float()  # image by text
    loss = F.cross_entropy(s, true / true.sum(1, keepdim=True))
    loss = (loss + F.cross_entropy(s.T, true.T / true.T.sum(1, keepdim=True))) / 2
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %% [markdown]
# `distract` puts words that mean nothing into some sentences, so that the encoder learns to pass over what it does not know. The package's loop gives the
# same weights:

# %%
short = replace(model, steps=STEPS)
short.use_backbone(model.extractor)  # loaded once
short.fit(described, train, progress=False)
if torch_device() == "cpu":  # a GPU draws the dropout otherwise
    assert same_weights(network, short.network)

# %% [markdown]
# Now with all its steps:

# %%
model.fit(described, train, progress=False)
figure, axis = plt.subplots(figsize=(6, 2.4), layout="constrained")
axis.plot(model.curve["step"], model.curve["loss"], lw=0.6, color="grey")
axis.plot(model.curve["step"], model.curve["loss"].rolling(20, min_periods=1).mean(), color=plotting.GOOD)
axis.axhline(np.log(model.batch), ls=":", color="black")
axis.text(model.steps, np.log(model.batch), "a blind guess", ha="right", va="bottom")
axis.set(xlabel="step", ylabel="InfoNCE", ylim=(0, None))
plt.show()
print(f"temperature at the end {float(model.network.log_temperature.exp().detach()):.3f}, at the beginning 0.07")

# %% [markdown]
# The loss cannot reach 0: a sentence that is true of ten images does not say which one is meant.
#
# ## Words to images
#
# All held-out images, the best five for each query. One query in each language, none of them made by a template:

# %%
gallery = np.sort(np.concatenate([held, new]))
vectors = model.embed_images(described.features[gallery])
first = rows["category"].iloc[gallery[-1]]
asked = {
    "bottle": ("big broken piece of glass", "sujeira no centro da garrafa", "rotura pequeña"),
    "screw": ("a scratch near the head", "rosca danificada em cima", "punta dañada abajo"),
}
asked = [text for name in categories for text in asked.get(name, ())] or ["a large scratch", "risco", "grieta"]

# %%
similarity = model.embed_texts(asked) @ vectors.T
for text, row in zip(asked[-3:], similarity[-3:], strict=True):
    best = np.argsort(-row)[:5]
    pictures = list(loading.load_images(list(rows["image_path"].iloc[gallery[best]]), 160))
    names = [f"{row[k]:.2f} {facts[gallery[k]]['type']}\n{facts[gallery[k]]['place']}" for k in best]
    print(f"“{text}”")
    display(plotting.gallery(pictures, titles=names, columns=5, size=1.6))

# %% [markdown]
# ## How good is it?
#
# A query names product and type; right are all held-out images of these. **Recall at 5** is the share of the right images among the first five (of five,
# where there are more). Chance is computed, not drawn: of $N$ images in random order, with $R$ right ones, the first five hold $5R/N$.


# %%
def ask(parts, language, group, images, unseen_words=False, looked=described.features[:, 0]):
    """Recall at 5 and its companions; of each query apart with its type."""
    known = [facts[row] for row in images]
    stated, texts = queries(known, parts, language, group, unseen_words=unseen_words)
    cosines, right = model.embed_texts(texts) @ model.embed_images(looked[images]).T, true_of(stated, known)
    by_query = [retrieval(cosines[[q]], right[[q]])["recall"] for q in range(len(texts))]
    names = [f"{row.get('product')} {row.get('type')}" for row in stated]
    return retrieval(cosines, right), pd.Series(by_query).groupby(names).mean()


# %%
TYPE = ("product", "type")
measured, by_type = {}, {}
for language in LANGUAGES:
    for group in ("seen", "unseen"):
        measured[f"{language}, {group} sentences"], by_type[language, group] = ask(TYPE, language, group, held)
    measured[f"{language}, unseen word for the type"], _ = ask(TYPE, language, "seen", held, unseen_words=True)
pd.DataFrame(measured).T.round(3)

# %%
result = measured["en, unseen sentences"]
interval = over_types(by_type["en", "unseen"])
print(
    f"recall at 5 {interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}], types resampled; chance {result['chance_recall']:.3f}"
)
found = interval["low"] > max(0.5, 2 * result["chance_recall"])
lesson("words find held-out defects of their type, far above chance", found, run, "synthetic")
worst = min(measured[f"{language}, unseen sentences"]["recall"] for language in LANGUAGES)
lost = measured["en, seen sentences"]["recall"] - worst
print(f"the worst language, by sentences that were never seen, loses {lost:.3f} to English by seen ones")
lesson("new sentences and other languages cost less than .1", lost < 0.1, run, "synthetic")

# %% [markdown]
# A sentence of another shape is no difficulty, nor is a language. **A word** that was never seen is: the rows *unseen word for the type* are near chance. A
# bag of n-grams knows nothing of synonyms, and no picture can tell it that a *score mark* is a scratch. What the sentence
# embeddings of a large language model know of that, `benchmarks/words.py --minilm` measures.

# %%
unseen_word = np.mean([measured[f"{language}, unseen word for the type"]["recall"] for language in LANGUAGES])
lesson("synonyms that were never seen are lost", unseen_word < 0.6 * worst, run, "synthetic")

# %% [markdown]
# **Combinations that were never seen**: type and place were learned apart, never together.

# %%
together = {}
for name, images in (("learned from", held), ("never seen", new)):
    known = [facts[row] for row in images]
    stated, texts = queries(known, (*TYPE, "place"), "en", "unseen")
    right = true_of(stated, [facts[row] for row in gallery])
    together[name] = retrieval(model.embed_texts(texts) @ vectors.T, right)
pd.DataFrame(together).T.round(3)

# %%
never = together["never seen"]
lesson("what was never seen together is found", never["recall"] > 3 * never["chance_recall"], run, "synthetic")

# %% [markdown]
# Each part alone, and the image without its mask: the region from **PaDiM's anomaly map**, fitted on a few good images, as a line would have it, and **no
# region** at all.

# %%
maps = []
for table in tables:
    padim = Padim.preset("quick").fit(list(table.loc[table["split"] == "train", "image_path"]))
    of_product = rows["category"].iloc[held] == table["category"].iloc[0]
    maps += list(padim.score(list(rows["image_path"].iloc[held][of_product])).maps)
paths = list(rows["image_path"].iloc[held])
by_map, whole = described.features[:, 0].copy(), described.features[:, 0].copy()
by_map[held] = model.look_at(paths, [words.region_of(anomaly_map) for anomaly_map in maps])[:, 0]
whole[:, -region:] = np.nan

# %%
lines = {}
for name, looked in (("mask", described.features[:, 0]), ("anomaly map", by_map), ("whole image", whole)):
    for part in ("type", "place", "size"):
        parts = TYPE if part == "type" else (part,)
        lines[name, part] = ask(parts, "en", "unseen", held, looked=looked)[0]["recall"]
chance = {
    part: ask(TYPE if part == "type" else (part,), "en", "unseen", held)[0]["chance_recall"]
    for part in ("type", "place", "size")
}
table = pd.Series(lines).unstack()[["type", "place", "size"]]
pd.concat([table, pd.DataFrame({"chance": chance}).T]).round(3)

# %% [markdown]
# The mask is an upper bound, as no inspection line is told where the defect is. With the map's region a part of it is lost. The whole image still knows the
# product and the large defects, and little of the place.
#
# ## Images to words
#
# The same space, the other way: which sentence is nearest to an image? No classifier was trained for it.

# %%
options, texts = queries(facts, (*TYPE, "place"), "en", "unseen")
nearest = model.embed_texts(texts)
chosen = gallery[[1, len(gallery) // 3, len(gallery) // 2, -2]]
order = np.argsort(-model.embed_images(described.features[chosen]) @ nearest.T, axis=1)
titles = [f"{facts[row]['type']}\n{facts[row]['place']}" for row in chosen]
plotting.gallery(
    list(loading.load_images(list(rows["image_path"].iloc[chosen]), 192)), titles=titles, columns=4, size=1.8
)

# %%
for row, ranked in zip(chosen, order, strict=True):
    print(f"{facts[row]['type']}, {facts[row]['place']}: “{texts[ranked[0]]}”")

# %% [markdown]
# ## Like this, but smaller
#
# A query need not be a text: the image's vector, moved towards the word "small" and brought back to length 1. Right are images of the same type that
# are smaller than the given one.

# %%
sizes = np.array([("small", "medium", "large").index(facts[row]["size"]) for row in gallery])
kinds = np.array([f"{facts[row]['product']} {facts[row]['type']}" for row in gallery])
wanted = (kinds[:, None] == kinds) & (sizes[:, None] > sizes)
moved, each = {}, {}
for weight in (0.0, 0.35, 0.7, 1.4) if wanted.any() else ():  # among few images none may be smaller
    cosines = model.like(vectors, "small", weight) @ vectors.T
    np.fill_diagonal(cosines, -2)
    moved[weight] = retrieval(cosines, wanted)
    asking = np.flatnonzero(wanted.any(1))
    each[weight] = np.array([retrieval(cosines[[q]], wanted[[q]])["recall"] for q in asking])
pd.DataFrame(moved).T.rename_axis("weight").round(3)

# %%
if each:
    gain = over_types(pd.Series(each[0.7] - each[0.0]))
    print(f"gain of weight 0.7 over the plain neighbours {gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]")
    print(
        metrics.verdict(gain["low"], gain["high"], "moved towards small, more of them are smaller", "fewer are smaller")
    )

# %% [markdown]
# With weight 0 these are the plain neighbours; with a large one the image is forgotten. The weight 0.7 is the package's default; it was chosen on drawn
# bottles and screws like these, so read the gain as an example. Images are resampled for its interval; with so few that have a
# smaller sister the verdict may be *undecided*.
#
# ## The failure case: no, not, two
#
# A bag of n-grams has no grammar. What does it find when a type is **denied**, when the order of words matters, or when defects are **counted**?

# %%
kind = kinds[-1].split(maxsplit=1)[1]
phrase = queries([{"type": kind}], ("type",), "en")[1][0]
variants = [
    phrase,
    f"no {phrase}",
    f"everything except a {phrase}",
    f"two of these: {phrase}",
    " ".join(phrase.split()[::-1]),
]
embedded = model.embed_texts(variants)
right = np.repeat((kinds == kinds[-1])[None], len(variants), 0)
for text, vector, is_right in zip(variants, embedded, right, strict=True):
    recall = retrieval((vector @ vectors.T)[None], is_right[None])["recall"]
    print(f"{text:55} cosine to the first {vector @ embedded[0]:.2f}; finds {kind}: recall {recall:.2f}")
denied = retrieval((embedded[1] @ vectors.T)[None], right[:1])["recall"]
lesson("a type that is denied is found all the same", denied >= 0.5, run, "synthetic")

# %% [markdown]
# "no" has no n-gram that ever made a difference: no training sentence denied anything. A model learns from pairs what tells them apart, and nothing else. CLIP
# has seen millions of sentences, and the paper says that it struggles with counting too ([Radford et al.](https://arxiv.org/abs/2103.00020), section 6).
#
# ## A page with a search box
#
# The text encoder is small enough to live in a page: n-grams and two layers, half a megabyte. The file needs no network and no server.

# %%
atlas = rows.iloc[gallery].reset_index(drop=True)
page = pages.atlas_page(
    atlas,
    {"PCA": PCA(2).fit_transform(vectors.astype(float))},
    loading.load_images(list(atlas["image_path"]), 192),
    title=f"Search by words: {', '.join(categories)}",
    search=words.for_page(model, vectors),
)
(transfer_folder() / "words.html").write_text(page, encoding="utf-8")
print(
    f"words.html: {len(page) / 1e6:.1f} MB, of it the encoder {len(str(words.for_page(model, vectors))) / 1e6:.1f} MB"
)

# %% [markdown]
# ## Yours, reported, verdict
#
# We found no published figure of a search by words on MVTec AD with descriptions of type, place and size. So there is no verdict; the yardsticks are chance
# and the upper bound by the mask.
#
# ## Exercises
#
# **1.** Unknown words: train without them (`replace(model, distraction=0.0)`). What do sentences of another shape cost then?
#
# <details><summary>Solution</summary>
#
# ```python
# model = replace(model, distraction=0.0).fit(described, train, progress=False)
# for group in ("seen", "unseen"):
#     print(group, round(ask(TYPE, "en", group, held)[0]["recall"], 3))
# ```
# In *quick*: 1.000 by sentences that were learned from and .983 by others; with them .992. Hardly anything: an n-gram that was never seen says nothing
# anyway, and those of "the" and "with" soon learn to say little.
# </details>
#
# **2.** The learned temperature: hold it at 0.5. What happens to recall, and why?
#
# <details><summary>Solution</summary>
#
# ```python
# class Warm(Words):
#     def new_network(self, grams):
#         network = super().new_network(grams)
#         network.log_temperature = nn.Parameter(torch.tensor(np.log(0.5), dtype=torch.float32), requires_grad=False)
#         return network
# model = Warm.preset(run.name).fit(described, train, progress=False)
# print(round(ask(TYPE, "en", "unseen", held)[0]["recall"], 3), round(ask(("place",), "en", "unseen", held)[0]["recall"], 3))
# ```
# In *quick*: .938 for types, where the learned one has .992, and .212 for places, where it has .693. Cosines lie between −1 and 1, so at τ = 0.5 no
# text can get a share near 1 of a batch: the loss stays high whatever is learned, and spends itself on the types, which lie far apart.
# </details>
#
# ## Save the artifact

# %%
files = words.files(model) | {"measured.json": measured, "words.html": page.encode()}
about = {"profile": run.name, "data_source": "synthetic", "categories": categories, "options": model.options()}
about["metrics"] = {"recall at 5, en, unseen sentences": result["recall"], "chance": result["chance_recall"]}
path = artifacts.save("words", files, **about, seed=0)
artifacts.download(path)

# %%
restored = words.load(artifacts.load("words", profile=run.name))
assert np.array_equal(restored.embed_texts(asked), model.embed_texts(asked))
print('at the command line: mvtec-ad search "scratch near the head" FOLDER')

# %% [markdown]
# ## Recap
#
# In this notebook we have
#
# * put facts about defects into sentences of three languages, some of them kept for asking;
# * derived InfoNCE both ways on three pairs, with an answer shared where a sentence is true of several images;
# * written the encoders and the loop, and got the package's weights;
# * searched by words, and measured recall against chance: new images, new sentences, new combinations, new words, three languages;
# * looked without the mask, with an anomaly map and with nothing;
# * seen that "no" and "two" mean nothing to it.
#
# **Limits.** It knows the types and the words of its descriptions, no others. Place and size are read from the region, which is only as good as the map that
# it comes from. And drawn defects are not photographs: what is left on real products, `benchmarks/words.py` measures.
