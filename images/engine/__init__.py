"""The build engine: targets as functions of their inputs, built in dependency order and only when an input changed."""
