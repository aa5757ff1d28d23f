"""What every notebook does in profile full, and how often: from presets, seeds and official numbers of images.

No training is thought to stop early. To it comes all that the notebook does in quick, as long as that takes: imports,
figures, and what does not grow. Downloads of data and weights are left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from costs import (
    Cost,
    comparison,
    cutting,
    decoder_step,
    gaussian,
    look,
    measuring,
    neighbours,
    pick,
    plane,
    reading,
    resampling,
    search_step,
    step,
    texture,
    tuning,
)

from mvtec_ad.benchmark.defect_types import OPEN_FOLDS
from mvtec_ad.config import DataSettings, Profile
from mvtec_ad.data.catalog import CATEGORIES, Category
from mvtec_ad.inspection import InspectionOptions
from mvtec_ad.methods.anogan import Anogan
from mvtec_ad.methods.autoencoder import Autoencoder, Vae
from mvtec_ad.methods.classifier import CHECKS, Classifier
from mvtec_ad.methods.defect_types import DefectTypes
from mvtec_ad.methods.efficient_ad import EfficientAd
from mvtec_ad.methods.explain import Attribution
from mvtec_ad.methods.f_anogan import FAnogan
from mvtec_ad.methods.gan import Dcgan
from mvtec_ad.methods.knn import Knn
from mvtec_ad.methods.padim import Padim
from mvtec_ad.methods.patchcore import Patchcore
from mvtec_ad.methods.pretraining import Pretraining
from mvtec_ad.methods.segmentation import Segmentation
from mvtec_ad.methods.subspace_ad import SubspaceAd
from mvtec_ad.notebooks import number_of

PROJECT = Path(__file__).parents[1]
SOURCES = {number_of(path): path for path in sorted((PROJECT / "notebooks" / "source").glob("*.py"))}
QUICK = json.loads((PROJECT / "assets" / "minutes.json").read_text(encoding="utf-8"))["notebooks"]
RUN = Profile("full", DataSettings.preset("full"))  # whatever the environment says
SEEDS, PRODUCTS = len(RUN.seeds), [CATEGORIES[name] for name in RUN.data.categories]
FIRST, TURNING = PRODUCTS[:1], [CATEGORIES["screw"]]  # that notebooks look at closely
PICTURES = 2 * 2 * (RUN.data.package_train + RUN.data.package_test)  # of packages: damaged and intact, two views
PIXELS, MNIST = 1024, 60_000  # side of the largest official images; digits to train on
# of notebook 04
NETWORKS = ("efficientnet_lite0", "efficientnet_lite2", "resnet18", "resnet50", "efficientnet_b0", "mobilenet_v3_large")


def trained(chosen: Sequence[Category]) -> int:
    """Good training images."""
    return sum(category.train for category in chosen)


def tested(chosen: Sequence[Category]) -> int:
    """Test images."""
    return sum(category.test_good + category.test_defective for category in chosen)


IMAGES = trained(PRODUCTS) + tested(PRODUCTS)


@dataclass(frozen=True)
class Part:
    """What a notebook does `count` times."""

    notebook: str
    what: str
    method: type | None  # whose preset `full` it takes
    count: int
    unit: str
    cost: Callable[[], Cost]  # of one
    stage: str = ""  # the artifact that it is done for


def padim(
    what: str, model: Padim, chosen: Sequence[Category], draws: int, stage: str = "", notebook: str = "02"
) -> Part:
    """PaDiM fitted on a product with several draws of channels, scored and measured."""
    good, images = (number(chosen) // len(chosen) for number in (trained, tested))
    good, positions = len(model.fitted(good)), (model.crop // 4) ** 2

    def cost() -> Cost:
        fits = gaussian(good, images, model.channels) * positions + measuring(model.crop) * images
        return look(model.backbone, model.crop) * (good + images) + fits * draws

    return Part(notebook, what, Padim, len(chosen), "products", cost, stage)


def patchcore(model: Patchcore, count: int = len(PRODUCTS) * SEEDS, notebook: str = "03b") -> Part:
    """PatchCore on a product, with a seed."""
    cells, width = (model.crop // 8) ** 2, {"resnet18": 384}.get(model.backbone, 152)  # of layers 2 and 3
    images, patches = IMAGES // len(PRODUCTS), cells * trained(PRODUCTS) // len(PRODUCTS)
    bank = round(model.coreset * patches)

    def cost() -> Cost:
        fit = pick(patches, model.projection) * bank + comparison(cells, bank, width) * images
        return look(model.backbone, model.crop) * images + fit

    return Part(notebook, f"PatchCore, {model.backbone}", Patchcore, count, "fits", cost)


def autoencoder(what: str, model: Autoencoder, chosen: Sequence[Category]) -> Part:
    """A training step, of all products and seeds."""
    steps = sum(model.epochs * -(-category.train // model.batch_images) or model.steps for category in chosen)
    cost = partial(step, type(model), "default", loss=model.loss, image_size=model.image_size, crop=model.crop)
    return Part("03", what, type(model), steps * SEEDS, "steps", cost)


def classifier(what: str, network: str, count: int, images: int, stage: str = "") -> Part:
    """A network tuned; the images pass it for the head, mirrored too, and at every check."""
    model = Classifier.preset("full")

    def cost() -> Cost:
        passes = look(network, model.image_size) * (images * (2 + CHECKS * model.held_out))
        return passes + tuning(network, model.image_size, model.batch_images) * model.steps

    return Part("04", f"{what}, {network}", Classifier, count, "trainings", cost, stage)


def parts() -> list[Part]:
    """Of all notebooks; nothing is counted or timed yet."""
    quick = [Part(name, "all of quick", None, 1, "", partial(Cost, Counter(), 60 * QUICK[name])) for name in SOURCES]
    more = [*tables_and_padim(), *reconstruction(), *classification(), *attribution(), *types()]
    return sorted([*quick, *more, *digits_and_gan(), *the_last_five(), *beyond()], key=lambda part: part.notebook)


def tables_and_padim() -> list[Part]:
    """Notebooks 01 and 02."""
    keras, whole = Padim.preset("full"), partial(reading, PIXELS)
    return [
        Part("01", "images and masks", None, IMAGES + tested(PRODUCTS), "files", whole, "data"),
        Part("01", "packages", None, PICTURES, "files", whole, "packages"),
        padim("Keras ResNet50", keras, PRODUCTS, 3, "padim"),
        padim("raw features beside scaled ones", Padim.preset("quick"), 2 * FIRST, 3),
        padim("as it lies, centred, aligned", replace(keras, image_size=keras.crop), TURNING, 9),
        padim("two numbers of channels, five draws", keras, TURNING, 10),
        patchcore(Patchcore.preset("full"), 2 * SEEDS, "02"),
        padim("torch beside Keras", replace(keras, backbone="efficientnet_lite0"), 2 * FIRST, 3),
        padim("ResNet-18", Padim.preset("resnet18"), PRODUCTS, 3),
        padim("WideResNet50-2", Padim.preset("wide_resnet50"), PRODUCTS, 3),
    ]


def reconstruction() -> list[Part]:
    """Notebooks 03 and 03b; of the small networks all are taken for the largest."""
    ours, memory = Autoencoder.preset("full"), Patchcore.preset("full")
    small = partial(step, Autoencoder, "default", loss="mse", image_size=64, crop=64)
    metrics = partial(measuring, memory.crop)
    return [
        autoencoder("autoencoder", ours, PRODUCTS),
        autoencoder("squared error alone", replace(ours, loss="mse"), FIRST),
        autoencoder("reported setting", Autoencoder.preset("reported"), PRODUCTS),
        autoencoder("two VAEs", Vae.preset("full"), 2 * FIRST),
        Part("03", "a grid that copies", Autoencoder, SEEDS * 700, "steps", small),
        patchcore(memory),
        patchcore(Patchcore.preset("resnet18")),
        Part("03", "metrics of two methods", None, 2 * SEEDS * tested(PRODUCTS), "maps", metrics),
        Part("03b", "metrics of PatchCore", None, 2 * SEEDS * tested(PRODUCTS), "maps", metrics),
    ]


def classification() -> list[Part]:
    """Notebook 04: packages with a model a view and with one for both, and products."""
    model, (first, *others) = Classifier.preset("full"), NETWORKS
    cut, images = partial(cutting, model.image_size), IMAGES // len(PRODUCTS)
    return [
        Part("04", "items found and cut", None, PICTURES, "pictures", cut, "models"),
        classifier("packages", first, 2, PICTURES // 2, "models"),
        classifier("packages, both views", first, 1, PICTURES, "models"),
        *(classifier("packages, both views", network, 1, PICTURES) for network in others),
        classifier("products", first, len(PRODUCTS), images, "models"),
        *(classifier("products", network, len(PRODUCTS), images) for network in others),
    ]


def attribution() -> list[Part]:
    """Notebook 05: its passes; forwards and backwards are three."""
    maps, passes = Attribution.preset("full"), partial(look, NETWORKS[0], Classifier.preset("full").image_size)
    grad_cam, occlusion = 2 * 3, maps.windows**2
    gradients, removals = 3 * (maps.path_steps + maps.noisy_copies), 7 * 2 * (maps.removals + 1)  # of seven orders
    view = (grad_cam + occlusion) * maps.images + (gradients + removals) * maps.few
    anew = 3 * 6 * grad_cam * maps.randomised  # three draws, after each of six parts of the network
    others = 5 * (grad_cam + 1) * maps.images + (grad_cam + occlusion) * FIRST[0].test_defective // 3
    return [
        Part("05", "maps of one view", Attribution, view, "passes", passes),
        Part("05", "weights drawn anew", Attribution, anew, "passes", passes),
        Part("05", "maps by other networks, and of a product", Attribution, others, "passes", passes),
    ]


def types() -> list[Part]:
    """Notebook 06."""
    model, defects = DefectTypes.preset("full"), sum(category.test_defective for category in PRODUCTS)
    passes = partial(look, model.backbone, model.image_size)
    tune = partial(tuning, model.backbone, model.image_size, model.batch)
    folds = model.folds * model.repeats
    left_out = OPEN_FOLDS * max(len(set(category.defects) - set(model.mixtures)) for category in PRODUCTS)
    every, close = model.steps * (folds + 2) * len(PRODUCTS), model.steps * (folds + left_out)
    return [
        Part("06", "copies", DefectTypes, defects * (model.copies + 1), "passes", passes, "contrastive"),
        Part("06", "two other looks", DefectTypes, 2 * defects * (2 + 1), "passes", passes),
        Part("06", "folds and models of every product", DefectTypes, every, "steps", tune, "contrastive"),
        Part("06", "SimCLR, and types left out", DefectTypes, close, "steps", tune),
        Part("06", "t-SNE of each product, joint ones, UMAP as if as long", None, 5, "maps", partial(plane, defects)),
    ]


def digits_and_gan() -> list[Part]:
    """Notebooks 07 and 07b."""
    dcgan, model, digit = Dcgan.preset("full"), FAnogan.preset("full"), FAnogan.preset("digits")
    learned, seen, fits = round(MNIST * (1 - dcgan.held_out)), tested(PRODUCTS) * SEEDS, len(PRODUCTS) * SEEDS
    play = partial(step, Dcgan, "full", "epochs", snapshots=1)
    narrow, recipes = partial(play, width=8, discriminator_width=8), 9 * replace(dcgan, epochs=3).steps(learned)
    pairs = 12 * 10_000 * (10_000 + 2 * 1000)  # tables of two, nine and one rows, beside 10,000 digits
    gan, gan_digit = (partial(step, FAnogan, preset, encoder_steps=0) for preset in ("full", "digits"))
    encoder = partial(step, FAnogan, "full", "encoder_steps", steps=1)
    search, search_digit = (partial(search_step, preset) for preset in ("full", "digits"))
    searched, digits = tested(FIRST) * SEEDS * model.search_steps, SEEDS * 1900 * digit.search_steps
    return [
        Part("07", "DCGAN", Dcgan, dcgan.steps(learned), "steps", play),
        Part("07", "three recipes, three seeds", Dcgan, recipes, "steps", narrow),
        Part("07", "precision and recall of digits", Dcgan, pairs, "pairs", neighbours),
        Part("07b", "f-AnoGAN of a digit, and its encoder", FAnogan, SEEDS * digit.steps * 2, "steps", gan_digit),
        Part("07b", "AnoGAN of a digit", Anogan, digits, "steps of an image", search_digit),
        Part("07b", "f-AnoGAN", FAnogan, model.steps * fits, "steps", gan),
        Part("07b", "encoders", FAnogan, model.encoder_steps * fits, "steps", encoder),
        Part("07b", "AnoGAN", Anogan, searched, "steps of an image", search),
        Part("07b", "metrics", None, seen, "maps", partial(measuring, model.crop)),
    ]


def beyond() -> list[Part]:
    """Notebooks 12 to 15: masks, words, few images and signals."""
    mask, shots = Segmentation.preset("full"), SubspaceAd.preset("full")
    cuts = SEEDS * len(PRODUCTS) + 5 * 5 + 1 + len(FIRST[0].defects)  # seeds, a learning curve, types left out
    views = 2 * mask.views * sum(tested([category]) for category in PRODUCTS)  # of defects, and as many of good images
    encoded, looked = partial(look, "efficientnet_lite0", mask.crop), partial(look, "efficientnet_lite0", 192)
    shown = 2 * tested([*FIRST, *TURNING]) + 24 * (1 + shots.rotations) + 4 * 24
    drawn = 40 * sum(len(category.defects) for category in PRODUCTS)
    network = {"width": 8, "image_size": 64, "crop": 64}
    signals = partial(step, Autoencoder, "quick", loss="mse", latent=16, image_size=64, crop=64)
    return [
        Part("12", "views for the decoder", Segmentation, views, "passes", encoded),
        Part("12", "DeepLabV3+", Segmentation, cuts * mask.steps, "steps", decoder_step),
        Part("13", "drawn defects, in several views", None, 4 * drawn, "passes", looked),
        Part("14", "SubspaceAD, MuSc", SubspaceAd, shown, "passes", partial(look, shots.backbone, shots.crop)),
        Part("15", "autoencoders of signals", None, 3 * 500, "steps", signals),
        Part("15", "f-AnoGAN of signals", None, 2 * 3 * 500, "steps", partial(step, FAnogan, "quick", **network)),
    ]


def the_last_five() -> list[Part]:
    """Notebooks 08, 09, 09b, 10 and 11."""
    model, nearest, second = Classifier.preset("full"), Knn.preset("full"), Padim.preset("full")
    options, weights = InspectionOptions.preset("full"), Pretraining.preset("full")
    student, learn = EfficientAd.preset("full"), partial(step, EfficientAd, "full")
    name, opinion = partial(look, options.backbone, options.image_size), partial(look, second.backbone, second.crop)
    judge, neighbour = partial(look, model.backbone, model.image_size), partial(look, nearest.backbone, nearest.crop)
    rows = 7 * tested(PRODUCTS) + 5 * tested(FIRST)  # six methods and a trivial row, more of the first product
    drawn, train = partial(texture, weights.image_size), partial(tuning, "resnet18", weights.view, weights.views)
    scores, metrics = 2 * 12 * SEEDS * len(PRODUCTS), partial(measuring, second.crop)
    return [
        Part("08", "which product", InspectionOptions, IMAGES + PICTURES, "passes", name),
        Part("08", "second opinions of five methods", Padim, 5 * tested(PRODUCTS), "passes", opinion),
        Part("08", "classifier, Grad-CAM, type", Classifier, 6 * IMAGES, "passes", judge),
        Part("09", "metrics of all and of common images", None, rows * 4 // 3, "maps", metrics),
        Part("09", "AUPRO in pairs", None, 11 * tested(FIRST), "maps", metrics),
        Part("09", "image AUROC in pairs", None, scores, "scores", resampling),
        Part("09", "nearest neighbours", Knn, IMAGES, "passes", neighbour),
        Part("09", "EfficientAD", EfficientAd, len(PRODUCTS) * student.steps, "steps", learn),
        padim("twenty draws", second, TURNING, 20, notebook="09b"),
        Part("10", "textures, two at once", None, weights.images // 2, "images", drawn),
        Part("10", "pretraining", Pretraining, weights.steps, "steps", train),
        patchcore(Patchcore.preset("full"), 1, "11"),
        Part("11", "scores of test images, also changed", Patchcore, 8 * tested(FIRST), "passes", opinion),
        padim("updated, fitted again, spoiled", second, FIRST, 4, notebook="11"),
    ]
