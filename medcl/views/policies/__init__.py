"""The built-in policies, one short YAML file per modality, each to be looked at with `medcl preview` before use."""
