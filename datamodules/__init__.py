"""Datasets as Lightning datamodules: public layouts in, splits by patient and batches in [0, 1] out."""

from datamodules.base import MedicalDataModule
from datamodules.chest_xray import ChestXRay
from datamodules.phantom import PhantomChestXRay
from datamodules.samplers import EachImageOnce
from datamodules.samples import Sample

__all__ = ["ChestXRay", "EachImageOnce", "MedicalDataModule", "PhantomChestXRay", "Sample"]
