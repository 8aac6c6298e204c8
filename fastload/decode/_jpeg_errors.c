/* libjpeg's errors and warnings as values: a jump back to where the work began, and a message. */
#include "_jpeg.h"

#include <jerror.h>

void fl_limit_scans(j_common_ptr info) {
    if (info->is_decompressor && ((j_decompress_ptr)info)->input_scan_number > FL_MAX_SCANS)
        ERREXIT1(info, JERR_BAD_PROGRESSION, FL_MAX_SCANS); /* the message is replaced in fail() */
}

static void fail(j_common_ptr info) {
    fl_errors *errors = (fl_errors *)info->err;
    if (info->is_decompressor && ((j_decompress_ptr)info)->input_scan_number > FL_MAX_SCANS) {
        snprintf(errors->message, sizeof errors->message, "more than %d scans", FL_MAX_SCANS);
    } else {
        char message[JMSG_LENGTH_MAX];
        (*info->err->format_message)(info, message);
        snprintf(errors->message, sizeof errors->message, "%s", message);
    }
    longjmp(errors->jump, 1);
}

/* The first warning is an error: libjpeg would go on with pixels that it made up. */
static void warn(j_common_ptr info, int level) {
    if (level < 0) fail(info);
}

void fl_fail(fl_errors *errors, const char *message) {
    snprintf(errors->message, sizeof errors->message, "%s", message);
    longjmp(errors->jump, 1);
}

static void be_quiet(j_common_ptr info) { (void)info; }

struct jpeg_error_mgr *fl_errors_init(fl_errors *errors) {
    struct jpeg_error_mgr *manager = jpeg_std_error(&errors->manager);
    manager->error_exit = fail;
    manager->emit_message = warn;
    manager->output_message = be_quiet;
    errors->message[0] = 0;
    return manager;
}
