"""What `sampler=` takes: which samples an epoch has, how often, and in which batches. All read the index and no sample.

Subset          some samples only
Weighted        with replacement, in proportion to weights
ClassBalanced   with replacement, every class equally often
Stratified      every sample once, each batch with the classes in proportion
LengthBuckets   every sample once, in batches of similar length and bounded cost
"""

from fastload.order.buckets import LengthBuckets
from fastload.order.sampler import ClassBalanced, Sampler, Stratified, Subset, Weighted

__all__ = ["ClassBalanced", "LengthBuckets", "Sampler", "Stratified", "Subset", "Weighted"]
