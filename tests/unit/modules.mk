# Which modules (folders) each unit test is linked with: MODULES_test_NAME := util ...
MODULES_test_util := util
MODULES_test_track := util track
MODULES_test_serve := util serve
MODULES_test_store := util store
MODULES_test_ctl := util ctl
MODULES_test_ctl_verbs := util ctl serve
MODULES_test_probe := util python probe
