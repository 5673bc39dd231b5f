"""Dependencies, packages and the console script; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"', (here / "rectal_nnformer/__init__.py").read_text(encoding="utf-8"), re.M)

tracking = ["tensorboard>=2.12", "mlflow-skinny>=3"]

setup(
    name="rectal_nnformer",
    version=version[1],
    description="CT-pretrained SMIT and Swin UNETR for rectal cancer MRI, as a self-configuring nnU-Net v2 extension",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # rectal_nnformer/trainers and rectal_nnformer/dataset_conversion are links to the folders at the top.
    packages=find_packages(include=["rectal_nnformer", "rectal_nnformer.*"]),
    package_data={
        "rectal_nnformer": ["py.typed", "**/*.pyi", "reporting/assets/*", "reporting/templates/*", "study/*.toml"],
    },
    install_requires=[
        "acvl-utils>=0.2.3,<0.3",
        "batchgenerators>=0.25.1",
        "batchgeneratorsv2>=0.3.0",
        "blosc2>=3.3.2",
        "highdicom>=0.28,<0.29",
        "jinja2>=3.1",
        "lazy_loader>=0.4",
        "MarkupSafe>=2.0",
        "matplotlib>=3.7",
        "monai>=1.5,<2",
        "nibabel>=5",
        "nnunetv2>=2.8,<2.9",
        "numpy>=1.24",
        "packaging>=21",
        "pillow>=9.1",
        "psutil>=5.9",
        "pydantic>=2.12",
        "pydicom>=3.0.1",
        "requests>=2.31",
        "safetensors>=0.4",
        "scikit-image>=0.20",
        "scikit-learn>=1.2",
        "scipy>=1.10",
        "SimpleITK>=2.2.1",
        "submitit>=1.5,<2",
        "tomli>=2; python_version < '3.11'",
        "torch>=2.6",
        "tqdm>=4.64",
        "typing-extensions>=4.6",
    ],
    extras_require={
        "tracking": tracking,
        "test": [
            *tracking,
            "codespell[toml]>=2.2.4",
            "hypothesis>=6.100",
            "mypy>=1.10",
            "picai_eval>=1.4.13",
            "pre-commit>=3.5",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "selenium>=4.10",
        ],
    },
    entry_points={"console_scripts": ["rectal_nnformer=rectal_nnformer.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
