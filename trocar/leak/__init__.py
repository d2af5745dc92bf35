"""The leak guard where data, weights and labelled data sets meet: what is held out, and the verdict on a score.

`trocar.data.leak` compares cases and pictures, `trocar.backbones.exposure` says what weights have seen; this room reads
labelled data sets for both and knows neither training nor scoring.
"""
