"""From plain prompts to rules: patterns for the common wordings of each rule.

Start with `read`, from a text to its rules; `amounts` reads numbers.
"""
