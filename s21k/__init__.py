"""s21k: A Simple Approach and Benchmark for 21,000-Category Object Detection (ECCV 2022).

The house has three floors; imports only go down (tests/test_floors.py keeps it).

  commands   train_stage1.py train_stage2.py evaluate.py, s21k/{demo,predict,plan,audit,experiments,why,cam}.py
  wings      models/  data/  evaluation/  training/  prepare/      (no wing imports another)
  ground     structures boxes masks packed tables archives json_pieces categories config words trees names randomness
             distributed transfer images image_files deep_images annotations annotation_parts annotation_faults draw plot
             errors

Start with train_stage2.py, then models/detector.py and models/scores.py: they are the method.
P- and G-numbers in comments (P25, G3, ...) refer to s21k/audit.md.
"""
