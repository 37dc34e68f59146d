package snap

import (
	"encoding/json"
	"testing"
)

func TestStringField(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"a":"1","id":"x"}`:                   "x",
		`{"id":"x","a":{"id":"y"},"b":["id"]}`: "x",
		`{"a":"id","b":"c"}`:                   "",
		`{"id":"x","id":"y"}`:                  "y",
		`{"id":1}`:                             "",
		`{"id":1,"a":"b"}`:                     "",
		`{"id":["z"],"a":"b"}`:                 "",
		`{"a\"id":"x"}`:                        "",
		`{"a":"\",\"id\":\"x"}`:                "",
		`{"id":"a\"b"}`:                        "",
		`["id","x"]`:                           "",
		`{"id":""}`:                            "",
		``:                                     "",
		`"`:                                    "",
	} {
		if got := StringField([]byte(body), "id"); got != want {
			t.Errorf("StringField(%s) = %q, expected %q", body, got, want)
		}
	}
}

func FuzzStringField(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"id":"n"}],"id":"x","b":"\u2028"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		canonical, hazards, err := AppendCanonical(nil, body)
		got := StringField(canonical, "id")
		var fields map[string]any
		if err != nil || len(hazards) > 0 || json.Unmarshal(canonical, &fields) != nil {
			return
		}
		want, _ := fields["id"].(string)
		if got != want && got != "" {
			t.Errorf("StringField(%s) = %q, expected %q", canonical, got, want)
		}
	})
}
