# The studies of the four papers, in an order in which every victim is fine-tuned once: make studies
#   SCALE=small     small images, and some of them: for two CPU cores; SCALE=paper has the papers' sizes, for a GPU
#   DATA=data       folder that holds the folders of the public sets
#   SETS="..."      the sets that are wanted, of those below; by default all but phantom_ct and phantom_endoscopy, which
#                   stand in for covid_ct and kvasir_boxes. Phantoms are painted and need no folder
#   WEIGHTS=hub     pretrained weights of the MobileNets: timm's download, or a file
# Runs go to runs/SCALE. What is there is not made again; a training or an evaluation that was stopped goes on where it
# was; make studies-left names what is left. Files of a study are not watched: remove its folder to have it made anew.
# OMP_NUM_THREADS=1 make -j2 studies has two cores work on two of them; MEDROBUST_BRISQUE=FOLDER, where BRISQUE's model
# lies, adds its column to tables.
SCALE ?= small
DATA ?= data
PHANTOMS := phantom_aptos phantom_ct phantom_endoscopy
EVERY_SET := chest_xray nih_cxr14 ham10000 cifar10 covid_ct kvasir_boxes $(PHANTOMS)
SETS ?= $(filter-out phantom_ct phantom_endoscopy,$(EVERY_SET))
WEIGHTS ?= hub
PLACE := runs/$(SCALE)
STUDIES :=
VICTIMS :=

ifneq ($(filter studies% runs/%,$(MAKECMDGOALS)),) # else a variable of that name is nobody's business here
ifeq ($(filter $(SCALE),small paper),)
$(error SCALE is small or paper, got '$(SCALE)')
endif
ifneq ($(if $(strip $(SETS)),$(filter-out $(EVERY_SET),$(SETS)),none),)
$(error SETS names some of $(EVERY_SET), got '$(SETS)')
endif
endif
PRETRAINED := --model.init_args.weights $(WEIGHTS)
DENSE_HEAD := --model.init_args.head dense
# what each scale changes: words of every fine-tuning, words of every evaluation, and which second file of a study
ifeq ($(SCALE),small)
SIZE := --data.init_args.image_size 64
XRAYS := --data.init_args.image_size 80
SHORT := --trainer.max_epochs 8
NIH := $(SIZE) $(SHORT)
GRADES := --data.init_args.image_size 96
NATURAL := --model.init_args.backbone mobilenetv2_100 --model.init_args.options '{pad_type: same}' \
  --model.init_args.head_std 0.01 --model.init_args.std 0.5 --model.init_args.weights $(WEIGHTS) \
  $(SIZE) --data.init_args.batch_size 32 --trainer.max_epochs 6
RANDOM := --model.init_args.weights null $(DENSE_HEAD) $(XRAYS) --model.init_args.optimizer.init_args.lr 0.002 --trainer.max_epochs 12
RESNET := --model.init_args.backbone resnet50 --model.init_args.options '{channels: [16, 32, 64, 128]}' $(RANDOM)
LARGER := --model.init_args.backbone resnet50 --model.init_args.options '{}' $(RANDOM)
DENSENET := --model.init_args.backbone densenet121 \
  --model.init_args.options '{growth_rate: 12, block_config: [4, 8, 8, 6]}' $(RANDOM)
FINER := 224
LONGER := 16
TEST := --trainer.limit_test_batches 3 --data.init_args.batch_size 32 --detection.folds 3
FEWER := --trainer.limit_test_batches 1 --detection.fit_per_class 24
TWO_RADII := --attack.epsilons '[1/256, 4/256]'
ONE_STEP := --attack.epsilons '[1/255, 2/255]'
STRESSED :=
COVID := --data.init_args.image_size 128 --data.init_args.labels lung --model.init_args.num_classes 2 \
  --data.init_args.fractions '{train: 0.5, val: 0, adv_train: 0, adv_test: 0.5}' \
  --trainer.limit_val_batches 0 --checkpoint.monitor null
MASKS := --data.init_args.image_size 96 --trainer.max_epochs 4
DETECTOR := --model.init_args.backbone mobilenetv2_100 --model.init_args.options '{pad_type: same}' \
  --model.init_args.mean 0.5 --model.init_args.std 0.5 \
  --model.init_args.optimizer.init_args.lr 3.0e-4 --model.init_args.width 64
BOXES := $(PRETRAINED) $(DETECTOR) --model.init_args.num_classes 1 --data.init_args.classes lesion \
  --data.init_args.image_size 96 --trainer.max_epochs 4
POLYPS := --data.init_args.image_size 128 --trainer.max_epochs 12
POLYP_BOXES := $(DETECTOR) --data.init_args.image_size 160 --trainer.max_epochs 12
TEST_DENSE := --trainer.limit_test_batches 3 --data.init_args.batch_size 8
TEST_LONG := --trainer.limit_test_batches 2 --data.init_args.batch_size 4
LAID_OVER := _small
# the last maps of small images are 2x2
SHARPER := --study.studies.grad_cam.layer blocks.4
else
SIZE := --data.init_args.image_size 224
XRAYS := $(SIZE)
SHORT :=
NIH :=
GRADES :=
FINER := 448
LONGER := 40
NATURAL :=
# the layers of the network that natural images have at this scale
STRESSED := --representation.layers '[layer1.0.act1, layer2.0.act1, layer3.0.act1, global_pool]' $(foreach one,1 2 3,\
  $(foreach way,down up,--attack.attacks.layer$(one)-$(way).objective.layer layer$(one).0.act1))
COVID :=
MASKS :=
BOXES :=
POLYPS :=
POLYP_BOXES :=
TEST_DENSE :=
TEST_LONG :=
RESNET := -c configs/recipes/ma20.yaml
LARGER := $(RESNET) --model.init_args.backbone resnet101
DENSENET := $(RESNET) --model.init_args.backbone densenet121
TEST :=
FEWER :=
TWO_RADII :=
ONE_STEP :=
LAID_OVER :=
SHARPER :=
endif

MOBILENET := $(PRETRAINED) $(DENSE_HEAD)

# $(call victim,NAME,SET,CONFIG,WORDS): a victim and how it is fine-tuned; nothing where its set is not wanted
define victim_rule
VICTIMS += $(PLACE)/$(1)/train.yaml
$(PLACE)/$(1)/checkpoints/done: | studies-data
	$$(BIN)/python train.py fit -c configs/victims/$(3).yaml --name $(1) --runs $(PLACE) \
	  --data.root $(if $(filter $(2),$(PHANTOMS)),$(PLACE)/phantoms,'$(DATA)')/$(2) $(4) \
	  $$(if $$(wildcard $$(@D)/last.ckpt),--ckpt_path last)
	@touch $$@
endef
victim = $(if $(filter $(2),$(SETS)),$(eval $(call victim_rule,$(1),$(2),$(3),$(4))))

# $(call study,VICTIM,SET,STUDY,WORDS,NEEDS): a study of a victim; NEEDS are further victims, studies of
# masks and boxes look at fewer images
define study_rule
STUDIES += $(PLACE)/$(1)/evaluations/$(3)/done
$(PLACE)/$(1)/evaluations/$(3)/done: $(PLACE)/$(1)/checkpoints/done $(foreach one,$(5),$(PLACE)/$(one)/checkpoints/done)
	@echo "study $(3) of $(1); done: $$$$(ls -d $(PLACE)/*/evaluations/*/done 2>/dev/null | wc -l) of $$(words $$(STUDIES))"
	$$(BIN)/python evaluate.py test -c $(PLACE)/$(1)/train.yaml -c configs/studies/$(3).yaml \
	  $(if $(LAID_OVER),$(patsubst %,-c %,$(wildcard configs/studies/$(3)$(LAID_OVER).yaml))) \
	  --ckpt_path best --runs $(PLACE) --evaluation $(3) $(if $(filter $(3),$(LONG)),$(TEST_LONG),$(if $(filter $(1),$(DENSE)),$(TEST_DENSE),$(TEST))) $(4)
	@touch $$@
endef
study = $(if $(filter $(2),$(SETS)),$(eval $(call study_rule,$(1),$(2),$(3),$(4),$(5))))
studies = $(foreach one,$(3),$(call study,$(1),$(2),$(one)))

# victims of masks and boxes, and their longest studies
DENSE := phantom_ct covid_ct ham10000_masks kvasir_masks phantom_endoscopy ham10000_boxes kvasir_boxes
LONG := smia21_table2 smia21_table3 smia21_table4

# Ma20: medical images of two and more classes, natural images, two architectures
$(call victim,chest_xray,chest_xray,chest_xray,$(MOBILENET) $(XRAYS))
$(call victim,chest_xray_resnet,chest_xray,chest_xray,$(RESNET))
$(call victim,chest_xray_densenet,chest_xray,chest_xray,$(DENSENET))
$(call victim,chest_xray_surrogate,chest_xray,chest_xray,$(MOBILENET) $(XRAYS) --seed_everything 7)
$(call victim,ham10000,ham10000,ham10000,$(MOBILENET) $(SIZE))
$(call victim,ham10000_surrogate,ham10000,ham10000,$(MOBILENET) $(SIZE) --seed_everything 7)
$(call victim,chest_xray_resnet_surrogate,chest_xray,chest_xray,$(RESNET) --seed_everything 7)
$(call victim,cifar10,cifar10,cifar10,$(NATURAL))
$(foreach one,2 3 4,$(call victim,nih_cxr$(one),nih_cxr14,nih_cxr$(one),$(PRETRAINED) $(NIH)))

$(call studies,chest_xray,chest_xray,ma20_figure4 ma20_figure6 ma20_figure7 ma20_figure9 ma20_figure10 ma20_table4)
$(call studies,chest_xray_resnet,chest_xray,ma20_figure4 ma20_figure6 ma20_table4)
$(call studies,chest_xray_random,chest_xray,ma20_table4)
$(call studies,ham10000,ham10000,ma20_figure4 ma20_figure6 ma20_figure7 ma20_figure9 ma20_table4)
$(call studies,cifar10,cifar10,ma20_figure4 ma20_figure6 ma20_figure7)
$(foreach one,chest_xray ham10000 cifar10,$(call study,$(one),$(one),ma20_figure11,$(SHARPER)))
$(foreach one,2 3 4,$(call studies,nih_cxr$(one),nih_cxr14,ma20_figure4))

# Ma20's FGSM: what leaves the X-rays right, one setting changed at a time
$(call victim,chest_xray_balanced,chest_xray,chest_xray,$(MOBILENET) $(XRAYS) --data.init_args.balance true)
$(call victim,chest_xray_unweighted,chest_xray,chest_xray,$(MOBILENET) $(XRAYS) --model.init_args.class_weights null)
$(call victim,chest_xray_longer,chest_xray,chest_xray,$(MOBILENET) $(XRAYS) --trainer.max_epochs $(LONGER))
$(call victim,chest_xray_decayed,chest_xray,chest_xray,$(MOBILENET) $(XRAYS) --model.init_args.optimizer.init_args.weight_decay 1.0)
$(call victim,chest_xray_smoothed,chest_xray,chest_xray,$(MOBILENET) $(XRAYS) --model.init_args.label_smoothing 0.2)
$(call victim,chest_xray_finer,chest_xray,chest_xray,$(PRETRAINED) $(DENSE_HEAD) --data.init_args.image_size $(FINER))
$(call victim,chest_xray_random,chest_xray,chest_xray,$(XRAYS) $(DENSE_HEAD) --model.init_args.weights null $(SHORT))
$(call victim,ham10000_malignant,ham10000,ham10000,$(MOBILENET) $(SIZE) --data.init_args.classes malignant --model.init_args.num_classes 2)
$(call victim,chest_xray_noisy,chest_xray,chest_xray,$(MOBILENET) $(XRAYS) --data.init_args.augment '{noise: 0.05}')
$(call victim,chest_xray_larger,chest_xray,chest_xray,$(LARGER))
FGSM := balanced unweighted noisy longer decayed smoothed finer random larger densenet
$(foreach one,$(FGSM),$(call study,chest_xray_$(one),chest_xray,ma20_fgsm,$(ONE_STEP)))
$(foreach one,chest_xray chest_xray_resnet,$(call studies,$(one),chest_xray,ma20_fgsm))
$(foreach one,ham10000 ham10000_malignant,$(call studies,$(one),ham10000,ma20_fgsm))
$(call studies,cifar10,cifar10,ma20_fgsm)

# HFC21
$(call studies,chest_xray,chest_xray,hfc21_figure1 hfc21_figure2 hfc21_figure3a hfc21_figure3b hfc21_table1 hfc21_table2 hfc21_table3 hfc21_ablation hfc21_defender)
$(foreach one,chest_xray chest_xray_resnet,$(call study,$(one),chest_xray,hfc21_table4,--attack.surrogate $(PLACE)/$(one)_surrogate,$(one)_surrogate))
$(foreach one,resnet random,$(call study,chest_xray_$(one),chest_xray,hfc21_figure3b,$(TWO_RADII)))
$(call study,chest_xray_finer,chest_xray,hfc21_table2,$(FEWER))
$(call studies,ham10000,ham10000,hfc21_figure2 hfc21_table1 hfc21_table2 hfc21_table3)
$(call study,ham10000,ham10000,hfc21_table4,--attack.surrogate $(PLACE)/ham10000_surrogate,ham10000_surrogate)
$(call studies,cifar10,cifar10,hfc21_figure2)
$(call study,cifar10,cifar10,hfc21_table1,$(STRESSED))

# SBF20: what is crafted on each of three networks is judged by all
JUDGED := chest_xray chest_xray_resnet chest_xray_densenet
JUDGES := --transfer.judges '{chest_xray: $(PLACE)/chest_xray, resnet: $(PLACE)/chest_xray_resnet, densenet: $(PLACE)/chest_xray_densenet}'
$(foreach one,$(JUDGED),$(call study,$(one),chest_xray,sbf20_table1,$(JUDGES),$(JUDGED)))
$(call studies,chest_xray,chest_xray,sbf20_white_box sbf20_table2 sbf20_figure4 sbf20_max_stops)
$(call studies,chest_xray_resnet,chest_xray,sbf20_white_box sbf20_table2)
$(call studies,ham10000,ham10000,sbf20_white_box sbf20_table2 sbf20_figure4 sbf20_max_stops)
$(call study,chest_xray,chest_xray,medmnist_c,-c configs/attacks/corruptions_xray.yaml)
$(call study,ham10000,ham10000,medmnist_c,-c configs/attacks/corruptions_dermoscopy.yaml)

# SMIA21, on seven classes, five grades and two classes, on masks and on boxes
SMIA := $(foreach one,1 2 3 4 6,smia21_table$(one)_classification) smia21_figure2
$(call studies,ham10000,ham10000,$(SMIA))
$(call victim,phantom_aptos,phantom_aptos,phantom_aptos,$(PRETRAINED) $(GRADES))
$(call studies,phantom_aptos,phantom_aptos,$(SMIA))
$(call studies,chest_xray,chest_xray,smia21_table1_classification smia21_table6_classification smia21_figure2)
$(call victim,phantom_ct,phantom_ct,phantom_ct)
$(call victim,covid_ct,covid_ct,covid_ct,$(PRETRAINED) $(COVID))
$(call victim,ham10000_masks,ham10000,ham10000_masks,$(PRETRAINED) $(MASKS))
$(call victim,phantom_endoscopy,phantom_endoscopy,phantom_endoscopy)
$(call victim,ham10000_boxes,ham10000,ham10000_boxes,$(BOXES))
$(call victim,kvasir_masks,kvasir_boxes,kvasir_masks,$(PRETRAINED) $(POLYPS))
$(call victim,kvasir_boxes,kvasir_boxes,kvasir_boxes,$(PRETRAINED) $(POLYP_BOXES))
$(foreach one,phantom_ct covid_ct,$(call studies,$(one),$(one),smia21_table1_masks smia21_table6_masks))
$(call studies,ham10000_masks,ham10000,smia21_table1_masks smia21_table6_masks)
$(call studies,kvasir_masks,kvasir_boxes,smia21_table1_masks smia21_table6_masks)
$(call studies,ham10000_boxes,ham10000,smia21_table1_boxes smia21_table6_boxes)
$(foreach one,kvasir_boxes phantom_endoscopy,$(call studies,$(one),$(one),smia21_table1_boxes smia21_table6_boxes))
$(call studies,ham10000_boxes,ham10000,smia21_table4 smia21_table3 smia21_table2)

.PHONY: studies studies-left studies-data
studies: $(STUDIES)
	@lacking=; for study in $(sort $(notdir $(patsubst %/done,%,$(STUDIES)))); do \
	  ls $(PLACE)/*/evaluations/$$study/studies/*/settings.json >/dev/null 2>&1 || continue; \
	  $(BIN)/python compare.py figures $(PLACE)/*/evaluations/$$study --out $(PLACE)/figures/$$study || \
	    lacking="$$lacking $$study"; done; \
	  echo "figures of all victims side by side: $(PLACE)/figures"; \
	  test -z "$$lacking" || { echo "error: without all of their figures:$$lacking" >&2; exit 1; }

studies-left: # as make itself would go about it: a study of a victim that was fine-tuned anew is left, too
	@$(MAKE) --no-print-directory -n studies | sed -n 's/^echo "study \([^ ]*\) of \([^ ;]*\);.*/\2\/evaluations\/\1/p'

studies-data: $(VENV)/ready
	@for set in $(filter-out $(PHANTOMS),$(SETS)); do test -d '$(DATA)'/$$set || { \
	  echo "error: $(DATA) has no folder $$set: python prepare.py says how to get it, or leave it out of SETS" >&2; exit 2; }; done
