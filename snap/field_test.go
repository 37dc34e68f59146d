package snap

import "testing"

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
