package capability

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"file_open", "file_read", "time_get"}
	for name, want := range map[string]string{
		"file_opne": "file_open", "file_red": "file_read", "time_get": "time_get", "net_connect": "", "": "",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", name, got, want)
		}
	}
}
