package summarise

import (
	"reflect"
	"testing"
)

func TestSummarise(t *testing.T) {
	for _, tc := range []struct {
		text string
		want Summary
	}{
		{"", Summary{Top: []Word{}}},
		{"...!?", Summary{Top: []Word{}}},
		{"One.", Summary{Words: 1, Sentences: 1, Top: []Word{}}},
		{"Don't panic! Panic is no plan... PANIC?", Summary{Words: 7, Sentences: 3, Top: []Word{{"panic", 3}, {"don't", 1}, {"plan", 1}}}},
		{"über Über 1234\nübel", Summary{Words: 3, Sentences: 1, Top: []Word{{"über", 2}, {"übel", 1}}}},
		{"six five four seven eight nine", Summary{Words: 6, Sentences: 1, Top: []Word{{"eight", 1}, {"five", 1}, {"four", 1}, {"nine", 1}, {"seven", 1}}}},
	} {
		if got := summarise(tc.text); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: got %+v, want %+v", tc.text, got, tc.want)
		}
	}
}
