"""The collection protocol: one file per step, and the gate that a step passes."""
