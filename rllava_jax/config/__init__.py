"""A run's settings: what a configuration file imports."""

from data_pipelines.core.errors import ConfigError as ConfigError
from data_pipelines.settings import AugmentConfig as AugmentConfig
from data_pipelines.settings import DataConfig as DataConfig
from data_pipelines.settings import DocumentsConfig as DocumentsConfig
from data_pipelines.settings import MixPart as MixPart
from data_pipelines.settings import PhantomConfig as PhantomConfig
from data_pipelines.settings import PolicyConfig as PolicyConfig
from data_pipelines.settings import RegionConfig as RegionConfig
from rllava_jax.config.schema import AttentionKind as AttentionKind
from rllava_jax.config.schema import Config as Config
from rllava_jax.config.schema import Curriculum as Curriculum
from rllava_jax.config.schema import EvaluationConfig as EvaluationConfig
from rllava_jax.config.schema import InitConfig as InitConfig
from rllava_jax.config.schema import Layers as Layers
from rllava_jax.config.schema import LoraConfig as LoraConfig
from rllava_jax.config.schema import LoraTarget as LoraTarget
from rllava_jax.config.schema import MeshConfig as MeshConfig
from rllava_jax.config.schema import ModelConfig as ModelConfig
from rllava_jax.config.schema import OptimizerConfig as OptimizerConfig
from rllava_jax.config.schema import Remat as Remat
from rllava_jax.config.schema import Stage as Stage
from rllava_jax.config.schema import TrainConfig as TrainConfig
