"""s21k: A Simple Approach and Benchmark for 21,000-Category Object Detection (ECCV 2022).

Five layers; imports only go down (tests/test_floors.py checks it).

  scripts      train_stage1.py  train_stage2.py  evaluate.py: the three scripts, the loop in full view
  commands     s21k/{demo,predict,explain,plan,audit}.py; photos.py: what predict and explain share; evidence.py: what
               explain speaks of
  packages     models/  data/  training/  evaluation/  prepare/   none imports another; experiments/ uses all of them
  files        images image_files deep_images archives annotations annotation_table annotation_parts annotation_faults
               json_pieces json_columns tables: how data lies on disk; and draw.py: boxes, names, contact sheets
  core         structures boxes masks mask_tensors packed categories config words trees names errors options randomness
               transfer distributed: what every layer uses

Start with train_stage2.py, then models/detector.py and models/scores.py: they are the method.
P- and G-numbers in comments ([P25, G3]) refer to s21k/audit.md.
"""
