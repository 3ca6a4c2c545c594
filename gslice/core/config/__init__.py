"""The desired state of a node: node.yaml, checked, with every error on its line.

Workers and front-ends never import this package: it brings pydantic and ruamel.
"""

from gslice.core.config.access import key_to_yaml, present_access
from gslice.core.config.body import diff_functions, function_to_yaml, relative_path
from gslice.core.config.body import to_text as value_to_yaml
from gslice.core.config.load import (
    config_for_model,
    function_from_yaml,
    json_schema,
    load_config,
    name_of_model,
    share_from_yaml,
    state_dir_of,
)
from gslice.core.config.places import check_state_dir, default_state_dir, format_cores, parse_cores
from gslice.core.config.save import save_functions
from gslice.core.config.show import config_to_yaml, functions_to_yaml
from gslice.core.config.types import (
    AccessConfig,
    ClientMemoryConfig,
    Config,
    DeviceConfig,
    NodeConfig,
    Override,
    SettingChange,
)

__all__ = [
    "AccessConfig",
    "ClientMemoryConfig",
    "Config",
    "DeviceConfig",
    "NodeConfig",
    "Override",
    "SettingChange",
    "check_state_dir",
    "config_for_model",
    "config_to_yaml",
    "default_state_dir",
    "diff_functions",
    "format_cores",
    "function_from_yaml",
    "function_to_yaml",
    "functions_to_yaml",
    "json_schema",
    "key_to_yaml",
    "load_config",
    "name_of_model",
    "parse_cores",
    "present_access",
    "relative_path",
    "save_functions",
    "share_from_yaml",
    "state_dir_of",
    "value_to_yaml",
]
