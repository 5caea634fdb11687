# The studies of the four papers, in an order in which every victim is fine-tuned once: make studies
#   SCALE=small     small images, and some of them: for two CPU cores; SCALE=paper has the papers' sizes, for a GPU
#   DATA=data       folder that holds the folders of the public sets
#   SETS="..."      the sets that are wanted, of chest_xray, nih_cxr14, ham10000 and cifar10; all by default
#   WEIGHTS=hub     pretrained weights of the MobileNets: timm's download, or a file
# Runs go to runs/SCALE. What is there is not made again, and an evaluation that was stopped goes on where it was; make
# studies-left names what is left. Files of a study are not watched: remove its folder to have it made anew.
SCALE ?= small
DATA ?= data
SETS ?= chest_xray nih_cxr14 ham10000 cifar10
WEIGHTS ?= hub
PLACE := runs/$(SCALE)
STUDIES :=
VICTIMS :=

ifeq ($(filter $(SCALE),small paper),)
$(error SCALE is small or paper, got '$(SCALE)')
endif
# what each scale changes: words of every fine-tuning, words of every evaluation, and which second file of a study
ifeq ($(SCALE),small)
MOBILENET := --model.init_args.weights $(WEIGHTS) --data.init_args.image_size 96
NATURAL := --model.init_args.backbone mobilenetv2_100 --model.init_args.options '{pad_type: same}' \
  --model.init_args.std 0.5 --model.init_args.weights $(WEIGHTS) --data.init_args.image_size 64 --trainer.max_epochs 6
RESNET := --model.init_args.backbone resnet18 --model.init_args.options null --model.init_args.weights null \
  --data.init_args.image_size 96 --trainer.max_epochs 8
DENSENET := $(subst resnet18,densenet121,$(RESNET))
TEST := --trainer.limit_test_batches 2 --data.init_args.batch_size 32
LAID_OVER := _small
else
MOBILENET := --data.init_args.image_size 224
NATURAL :=
RESNET := -c configs/recipes/ma20.yaml
DENSENET := $(RESNET) --model.init_args.backbone densenet121
TEST :=
LAID_OVER :=
endif

# $(call victim,NAME,SET,CONFIG,WORDS): a victim and how it is fine-tuned; nothing where its set is not wanted
define victim_rule
VICTIMS += $(PLACE)/$(1)/train.yaml
$(PLACE)/$(1)/checkpoints/done: | studies-data
	$$(BIN)/python train.py fit -c configs/victims/$(3).yaml --name $(1) --runs $(PLACE) --data.root $(DATA)/$(2) $(4)
	@touch $$@
endef
victim = $(if $(filter $(2),$(SETS)),$(eval $(call victim_rule,$(1),$(2),$(3),$(4))))

# $(call study,VICTIM,SET,STUDY,WORDS,NEEDS): a study of a victim; NEEDS are further victims
define study_rule
STUDIES += $(PLACE)/$(1)/evaluations/$(3)/done
$(PLACE)/$(1)/evaluations/$(3)/done: $(PLACE)/$(1)/checkpoints/done $(foreach one,$(5),$(PLACE)/$(one)/checkpoints/done)
	@echo "study $(3) of $(1): $$(words $$(filter-out $$(wildcard $$(STUDIES)),$$(STUDIES))) of $$(words $$(STUDIES)) are left"
	$$(BIN)/python evaluate.py test -c $(PLACE)/$(1)/train.yaml -c configs/studies/$(3).yaml \
	  $(if $(LAID_OVER),$(patsubst %,-c %,$(wildcard configs/studies/$(3)$(LAID_OVER).yaml))) \
	  --ckpt_path best --runs $(PLACE) --evaluation $(3) $(TEST) $(4)
	@touch $$@
endef
study = $(if $(filter $(2),$(SETS)),$(eval $(call study_rule,$(1),$(2),$(3),$(4),$(5))))
studies = $(foreach one,$(3),$(call study,$(1),$(2),$(one)))

# Ma20: medical images of two and more classes, natural images, two architectures
$(call victim,chest_xray,chest_xray,chest_xray,$(MOBILENET) --model.init_args.head dense)
$(call victim,chest_xray_resnet,chest_xray,chest_xray,$(RESNET))
$(call victim,chest_xray_densenet,chest_xray,chest_xray,$(DENSENET))
$(call victim,chest_xray_surrogate,chest_xray,chest_xray,$(MOBILENET) --model.init_args.head dense --seed_everything 7)
$(call victim,ham10000,ham10000,ham10000,$(MOBILENET))
$(call victim,cifar10,cifar10,cifar10,$(NATURAL))
$(foreach one,2 3 4,$(call victim,nih_cxr$(one),nih_cxr14,nih_cxr$(one),--model.init_args.weights $(WEIGHTS)))

$(call studies,chest_xray,chest_xray,ma20_figure4 ma20_figure6 ma20_figure7 ma20_figure9 ma20_figure10 ma20_figure11 ma20_table4)
$(call studies,chest_xray_resnet,chest_xray,ma20_figure4 ma20_figure6 ma20_table4)
$(call studies,ham10000,ham10000,ma20_figure4 ma20_figure6 ma20_figure7 ma20_figure9 ma20_figure11 ma20_table4)
$(call studies,cifar10,cifar10,ma20_figure4 ma20_figure6 ma20_figure7)
$(foreach one,2 3 4,$(call studies,nih_cxr$(one),nih_cxr14,ma20_figure4))

# HFC21
$(call studies,chest_xray,chest_xray,hfc21_figure1 hfc21_figure2 hfc21_figure3a hfc21_figure3b hfc21_table1 hfc21_table2 hfc21_table3)
$(call study,chest_xray,chest_xray,hfc21_table4,--attack.surrogate $(PLACE)/chest_xray_surrogate,chest_xray_surrogate)
$(call studies,ham10000,ham10000,hfc21_figure2 hfc21_table1)
$(call studies,cifar10,cifar10,hfc21_figure2 hfc21_table1)

# SBF20: what is crafted on each of three networks is judged by all
JUDGED := chest_xray chest_xray_resnet chest_xray_densenet
JUDGES := --transfer.judges '{chest_xray: $(PLACE)/chest_xray, resnet: $(PLACE)/chest_xray_resnet, densenet: $(PLACE)/chest_xray_densenet}'
$(foreach one,$(JUDGED),$(call study,$(one),chest_xray,sbf20_table1,$(JUDGES),$(JUDGED)))
$(call studies,chest_xray,chest_xray,sbf20_table2 sbf20_figure4 sbf20_max_stops)
$(call studies,ham10000,ham10000,sbf20_table2 sbf20_figure4 sbf20_max_stops)

# SMIA21, on seven classes
$(call studies,ham10000,ham10000,$(foreach one,1 2 3 4 6,smia21_table$(one)_classification) smia21_figure2)

.PHONY: studies studies-left studies-data
studies: $(STUDIES)
	@for study in $(sort $(notdir $(patsubst %/done,%,$(STUDIES)))); do \
	  $(BIN)/python compare.py figures $(PLACE)/*/evaluations/$$study --out $(PLACE)/figures/$$study 2>/dev/null || true; done
	@echo "figures of all victims side by side: $(PLACE)/figures"

studies-left:
	@printf '%s\n' $(patsubst $(PLACE)/%/done,%,$(filter-out $(wildcard $(STUDIES)),$(STUDIES)))

studies-data: $(VENV)/ready
	@for set in $(SETS); do test -d $(DATA)/$$set || { \
	  echo "error: $(DATA) has no folder $$set: python prepare.py says how to get it, or leave it out of SETS" >&2; exit 2; }; done
