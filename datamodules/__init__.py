"""Datasets as Lightning datamodules: public layouts in, splits by patient and batches in [0, 1] out."""

from datamodules.base import MedicalDataModule
from datamodules.boxes import BoxDataModule, BoxTarget
from datamodules.chest_xray import ChestXRay
from datamodules.classification import ClassificationDataModule
from datamodules.covid_ct import CovidCT
from datamodules.dermoscopy import HAM10000, ISIC
from datamodules.endoscopy import Endoscopy
from datamodules.fundus import APTOS, KaggleDR
from datamodules.ham10000_boxes import HAM10000Boxes
from datamodules.image_folder import ImageFolder
from datamodules.kvasir_boxes import KvasirBoxes
from datamodules.kvasir_masks import KvasirMasks
from datamodules.lesion_masks import HAM10000Masks
from datamodules.lung_ct import LungCT
from datamodules.medmnist import MedMNIST, MedMNISTLabels
from datamodules.multilabel import MultiLabelDataModule
from datamodules.natural_images import CIFAR10, MNIST, Digits
from datamodules.nih import NIHChestXRay, NIHChestXRayLabels
from datamodules.phantom import PhantomChestXRay
from datamodules.phantom_ct import PhantomCT
from datamodules.phantom_dermoscopy import PhantomDermoscopy
from datamodules.phantom_endoscopy import PhantomEndoscopy
from datamodules.phantom_fundus import PhantomAPTOS, PhantomFundus
from datamodules.samplers import EachImageOnce
from datamodules.samples import Sample
from datamodules.segmentation import SegmentationDataModule
from datamodules.transforms import Scene

__all__ = [
    "APTOS",
    "BoxDataModule",
    "BoxTarget",
    "CIFAR10",
    "ChestXRay",
    "ClassificationDataModule",
    "CovidCT",
    "Digits",
    "EachImageOnce",
    "Endoscopy",
    "HAM10000",
    "HAM10000Boxes",
    "HAM10000Masks",
    "ISIC",
    "ImageFolder",
    "KaggleDR",
    "KvasirBoxes",
    "KvasirMasks",
    "LungCT",
    "MNIST",
    "MedMNIST",
    "MedMNISTLabels",
    "MedicalDataModule",
    "MultiLabelDataModule",
    "NIHChestXRay",
    "NIHChestXRayLabels",
    "PhantomAPTOS",
    "PhantomCT",
    "PhantomChestXRay",
    "PhantomDermoscopy",
    "PhantomEndoscopy",
    "PhantomFundus",
    "Sample",
    "Scene",
    "SegmentationDataModule",
]
