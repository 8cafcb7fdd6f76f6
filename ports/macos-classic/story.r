/* How much memory the program asks for: buffers and stack, and the model beside them. */
#include "Processes.r"

resource 'SIZE' (-1) {
    reserved, acceptSuspendResumeEvents, reserved, canBackground, doesActivateOnFGSwitch, backgroundAndForeground,
    dontGetFrontClicks, ignoreChildDiedEvents, is32BitCompatible, notHighLevelEventAware, onlyLocalHLEvents,
    notStationeryAware, dontUseTextEditServices, reserved, reserved, reserved,
    4 * 1024 * 1024,
    3 * 1024 * 1024
};
