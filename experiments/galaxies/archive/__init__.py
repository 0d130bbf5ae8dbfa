"""Stamps of a user's own mosaics, or of HST's, in one file."""
