"""What this paper shows: figures, tables and the PDF, from frames of numbers, in the words of `labels`."""
