# I3D-ResNet18 1-1-3-3-5 with multi-branch filters, a ninth as wide, on spoken words, data and schedule as
# tools/data/class_folders.py writes them. Deployed, as its checkpoint is; the network that was trained and then fused:
#   --cfg-options model.backbone.temporal_cfg.type=MultiBranchConv3d model.backbone.temporal_cfg.eta=2.0
_base_ = ['_base_/i3d-r18.py', '../../_base_/miracl_words.py']

model = dict(
    backbone=dict(
        base_channels=7,
        temporal_kernels=(1, 1, 3, 3, 5),
        temporal_cfg=dict(type='DeployedConv3d'),
        pretrained=None),
    cls_head=dict(num_classes=10, in_channels=56))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
