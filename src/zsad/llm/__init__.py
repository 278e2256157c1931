"""Language models that describe normal and abnormal objects: three back-ends and the cache of their answers."""

from zsad.llm.base import LLM, LLMError, LLMWarning, OfflineError
from zsad.llm.cache import AnswerCache, CacheMode, default_cache_dir
from zsad.llm.choice import llm_config, load_llm
from zsad.llm.endpoint import OpenAICompatibleLLM
from zsad.llm.local import HFLocalLLM
from zsad.llm.packaged import PACKAGED, PackagedLLM

__all__ = [
    "LLM",
    "PACKAGED",
    "AnswerCache",
    "CacheMode",
    "HFLocalLLM",
    "LLMError",
    "LLMWarning",
    "OfflineError",
    "OpenAICompatibleLLM",
    "PackagedLLM",
    "default_cache_dir",
    "llm_config",
    "load_llm",
]
