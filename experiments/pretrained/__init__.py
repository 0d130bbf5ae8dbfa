"""Models to try: made of finished runs (`build`), told of (`card`), and shown (`demo`)."""
