package snap

// StringField returns the member called name of the JSON object body, if it is
// there and a string without escapes. body must be what [AppendCanonical] has
// put out. Of members with the same name it takes the last, as most readers do.
// It is much faster than decoding the whole.
func StringField(body []byte, name string) string {
	var (
		found string
		depth int
		isKey bool // whether the next string at depth 1 is a key
		match bool // whether the key before was name
	)
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			depth++
			isKey = depth == 1
		case '}', ']':
			depth--
		case ',':
			isKey = depth == 1
		case '"':
			start := i + 1
			escaped := false
			for i = care(body, start); i < len(body) && body[i] != '"'; i = care(body, i) {
				if body[i] == '\\' {
					escaped = true
					i++
				}
				i++
			}
			text := body[min(start, len(body)):min(i, len(body))]
			switch {
			case depth == 1 && isKey:
				isKey = false
				match = !escaped && string(text) == name
			case depth == 1 && match:
				found, match = "", false
				if !escaped {
					found = string(text)
				}
			}
		}
	}
	return found
}
