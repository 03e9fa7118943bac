"""What is known about each data set without opening it: source, licence, citation, published counts, how to
get it."""

from dataclasses import dataclass, field

GB = 10**9
_KERMANY_CITATION = (
    "Kermany, Zhang, Goldbaum. Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification. Mendeley Data, v2, 2018. doi:10.17632/rscbjbr9sj.2"
)
_NIH_CITATION = (
    "Wang, Peng, Lu, Lu, Bagheri, Summers. ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks "
    "on Weakly-Supervised Classification and Localization of Common Thorax Diseases. CVPR 2017. "
    "Provided by the NIH Clinical Center."
)
_MEDMNIST_CITATION = (
    "Yang, Shi, Wei, Liu, Zhao, Ke, Pfister, Ni. MedMNIST v2: a large-scale lightweight benchmark for 2D and "
    "3D biomedical image classification. Scientific Data 10, 41, 2023. doi:10.1038/s41597-022-01721-8"
)
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
)
NO_FINDING = "No Finding"


@dataclass(frozen=True)
class DatasetInfo:
    """One data set of the registry.

    Attributes:
        name: what `load` takes.
        title: in words.
        module: loader, a module of ``xraykit.datasets`` with a function ``load``.
        labels: values that ``load(labels=...)`` takes; the first is the default.
        classes: class names under the default labels; empty where the folder decides.
        task: ``"multiclass"`` or ``"multilabel"``, under the default labels.
        licence, citation, homepage: what to name, and where it comes from.
        published: images by split, as published; empty where nothing is.
        size_on_disk: bytes of the published set, roughly; 0 where nothing is stored.
        manual: steps to get it by hand.
        files: False for a set that is made by the package.
        fetchable: True when ``xraykit data fetch`` can download it.
    """

    name: str
    title: str
    module: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    task: str
    licence: str
    citation: str
    homepage: str = ""
    published: dict[str, int] = field(default_factory=dict)
    size_on_disk: int = 0
    manual: tuple[str, ...] = ()
    files: bool = True
    fetchable: bool = True

    @property
    def variable(self) -> str:
        """Environment variable that points at an existing copy."""
        return f"XRAYKIT_{self.name.upper().replace('-', '_')}_DIR"

    @property
    def how_to_get(self) -> str:
        """The shortest way to the set."""
        if self.fetchable:
            return f"xraykit data fetch {self.name}"
        return (
            f"set {self.variable} or pass `source`" if self.files else "made by the package; nothing to get"
        )

    def how_to_get_text(self) -> str:
        """Every way to the set, for error messages."""
        ways = [f"To get it: {self.how_to_get}"]
        if self.fetchable:
            ways.append(f"To use an existing copy: set {self.variable} to its folder, or pass `source`.")
        return "\n".join([*ways, self.manual_text()])

    def manual_text(self) -> str:
        """The manual steps, numbered."""
        steps = (f"  {i}. {step}" for i, step in enumerate(self.manual, start=1))
        return "\n".join(["By hand:", *steps])


def _medmnist_steps(name: str) -> tuple[str, ...]:
    return (
        f"Download {name}_224.npz (or _128, _64; {name}.npz is 28) from https://zenodo.org/records/10519652.",
        f"Put the file into <data folder>/{name}/ (or any folder, and set XRAYKIT_{name.upper()}_DIR to it).",
        f"Run: xraykit data check {name}",
    )


_SETS = (
    DatasetInfo(
        name="synthetic",
        title="Synthetic chest X-rays: normal, bacterial, viral",
        module="synthetic",
        labels=("3-class", "binary"),
        classes=("normal", "bacterial", "viral"),
        task="multiclass",
        licence="MIT, as this package",
        citation="xraykit synthetic generator",
        files=False,
        fetchable=False,
    ),
    DatasetInfo(
        name="synthetic-nih",
        title="Synthetic chest X-rays: analogues of the 14 NIH findings",
        module="synthetic",
        labels=("multilabel", "binary"),
        classes=(*FINDINGS, NO_FINDING),
        task="multilabel",
        licence="MIT, as this package",
        citation="xraykit synthetic generator",
        files=False,
        fetchable=False,
    ),
    DatasetInfo(
        name="kermany",
        title="Chest X-Ray Images (Pneumonia): children, normal, bacterial and viral pneumonia",
        module="kermany",
        labels=("3-class", "binary"),
        classes=("normal", "bacterial", "viral"),
        task="multiclass",
        licence="CC BY 4.0",
        citation=_KERMANY_CITATION,
        homepage="https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia",
        published={
            "train/NORMAL": 1341,
            "train/PNEUMONIA": 3875,
            "val/NORMAL": 8,
            "val/PNEUMONIA": 8,
            "test/NORMAL": 234,
            "test/PNEUMONIA": 390,
        },
        size_on_disk=int(1.3 * GB),
        manual=(
            "Open https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia and download the "
            "zip (1.2 GB; the same images, those of val within train, are at https://data.mendeley.com/datasets/rscbjbr9sj/2).",
            "Put it as <data folder>/kermany.zip and run: xraykit data fetch kermany. "
            "Or unpack it anywhere and set XRAYKIT_KERMANY_DIR to the folder with train/ and test/.",
            "Run: xraykit data check kermany",
        ),
    ),
    DatasetInfo(
        name="nih",
        title="NIH ChestX-ray14: 112,120 frontal X-rays of 30,805 patients, 14 findings",
        module="nih",
        labels=("multilabel", "binary"),
        classes=(*FINDINGS, NO_FINDING),
        task="multilabel",
        licence="no restriction on use; link to the NIH download site, acknowledge the NIH Clinical Center "
        "and cite the CVPR 2017 paper",
        citation=_NIH_CITATION,
        homepage="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        published={"images": 112_120, "patients": 30_805, "boxes": 984, "train_val": 86_524, "test": 25_596},
        size_on_disk=45 * GB,
        manual=(
            "Open https://nihcc.app.box.com/v/ChestXray-NIHCC (or https://www.kaggle.com/datasets/nih-chest-xrays/data).",
            "Put Data_Entry_2017_v2020.csv (or Data_Entry_2017.csv), BBox_List_2017.csv, train_val_list.txt "
            "and test_list.txt into <data folder>/nih/.",
            "Put images_001.tar.gz ... images_012.tar.gz into <data folder>/nih/archives/ and run: "
            "xraykit data fetch nih (add --archives 1 for the first alone). Or unpack them as "
            "<data folder>/nih/images/ or <data folder>/nih/images_001/images/ ...",
            "Run: xraykit data check nih",
        ),
    ),
    DatasetInfo(
        name="pneumoniamnist",
        title="PneumoniaMNIST: the Kermany images, cropped and small",
        module="medmnist_sets",
        labels=("binary",),
        classes=("normal", "pneumonia"),
        task="multiclass",
        licence="CC BY 4.0",
        citation=f"{_MEDMNIST_CITATION}; images: {_KERMANY_CITATION}",
        homepage="https://medmnist.com",
        published={"train": 4708, "val": 524, "test": 624},
        size_on_disk=int(0.3 * GB),
        manual=_medmnist_steps("pneumoniamnist"),
    ),
    DatasetInfo(
        name="chestmnist",
        title="ChestMNIST: the NIH ChestX-ray14 images, small",
        module="medmnist_sets",
        labels=("multilabel", "binary"),
        classes=FINDINGS,
        task="multilabel",
        licence="CC BY 4.0",
        citation=f"{_MEDMNIST_CITATION}; images: {_NIH_CITATION}",
        homepage="https://medmnist.com",
        published={"train": 78_468, "val": 11_219, "test": 22_433},
        size_on_disk=int(5.7 * GB),
        manual=_medmnist_steps("chestmnist"),
    ),
    DatasetInfo(
        name="folder",
        title="Your own images, one folder a class",
        module="folder",
        labels=("classes", "binary"),
        classes=(),
        task="multiclass",
        licence="yours",
        citation="your own data",
        fetchable=False,
        manual=(
            "Put the images as <root>/<class>/<file>, or <root>/<train|val|test>/<class>/<file>.",
            "If you know the patients, add <root>/patients.csv with the columns path,patient_id.",
            "Set XRAYKIT_FOLDER_DIR to <root>, or pass `source`.",
        ),
    ),
)
CATALOGUE = {entry.name: entry for entry in _SETS}
