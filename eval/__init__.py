"""Everything that measures: figures with their controls, their n and their intervals."""
