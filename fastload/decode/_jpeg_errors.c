/* libjpeg's errors and warnings as values: a jump back to where the work began, and a message. */
#include "_jpeg.h"

#include <jerror.h>

/* Whether a decoder is in a scan that it should not get to. */
static int too_many_scans(j_common_ptr info) {
    if (!info->is_decompressor) return 0;
    j_decompress_ptr decoder = (j_decompress_ptr)info;
    int64_t scans = decoder->input_scan_number, pixels = (int64_t)decoder->image_width * decoder->image_height;
    return scans > FL_MAX_SCANS || scans * pixels > FL_MAX_SCANNED_PIXELS;
}

void fl_limit_scans(j_common_ptr info) {
    if (too_many_scans(info)) ERREXIT1(info, JERR_BAD_PROGRESSION, 0); /* the message is replaced in fail() */
}

static void fail(j_common_ptr info) {
    fl_errors *errors = (fl_errors *)info->err;
    if (too_many_scans(info)) {
        snprintf(errors->message, sizeof errors->message, "too many scans: a decompression bomb");
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
