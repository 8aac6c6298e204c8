"""What `sampler=` takes: which samples an epoch has, how often, and in which batches. All read the index and no sample.

Subset          some samples only, or another sampler over these
Weighted        with replacement, in proportion to weights
ClassBalanced   with replacement, every class equally often
Stratified      every sample once, each batch with the classes in proportion
LengthBuckets   every sample once, in batches of similar length and bounded cost
PackSequences   every document of tokens once, several in each row
"""

from fastload.order.buckets import LengthBuckets
from fastload.order.packing import PackSequences
from fastload.order.sampler import Sampler, Subset
from fastload.order.stratified import Stratified
from fastload.order.weighted import ClassBalanced, Weighted

__all__ = ["ClassBalanced", "LengthBuckets", "PackSequences", "Sampler", "Stratified", "Subset", "Weighted"]
