package zta_test

// syscallNames are those of the test kernel, in no order.
var syscallNames = []string{"file_read", "file_open", "file_write", "file_close", "file_rename", "net_connect", "kv_get", "time_get"}
