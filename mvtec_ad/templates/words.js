// The text encoder of methods/words.py in a page: an offline file can be searched by any words. `words_search` takes
// what `words.for_page` gives, and returns: text -> cosine to each image, or null where no word is known.
const words_search = ({grams, table, largest, width, layers, vectors, size}) => {
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const floats = text => new Float32Array(bytes(text).buffer);
  const rows = new Map(grams.map((gram, row) => [gram, row])), lengths = new Int8Array(bytes(table).buffer);
  const [weights1, bias1, weights2, bias2] = layers.map(floats), images = floats(vectors);
  const unit = vector => {
    const length = Math.hypot(...vector) || 1;
    return vector.map(value => value / length);
  };
  const linear = (weights, bias, input) => Array.from(bias, (start, row) =>
    input.reduce((sum, value, column) => sum + value * weights[row * input.length + column], start));
  const pieces = word => {
    const framed = '<' + word + '>', found = new Set([framed]);
    for (const n of [3, 4, 5])
      for (let start = 0; start + n <= framed.length; start++) found.add(framed.slice(start, start + n));
    return [...found];
  };
  return text => {
    const plain = text.toLowerCase().normalize('NFD').replace(/\p{M}/gu, '').match(/[a-z0-9]+/g) || [];
    const known = plain.flatMap(pieces).map(gram => rows.get(gram)).filter(row => row !== undefined);
    if (!known.length) return null;
    const sum = new Array(width).fill(0);
    for (const row of known)
      for (let k = 0; k < width; k++) sum[k] += lengths[row * width + k] * largest / 127;
    const hidden = linear(weights1, bias1, unit(sum).map(value => value * Math.sqrt(width)));
    const query = unit(linear(weights2, bias2, hidden.map(value => Math.max(value, 0))));
    return Array.from({length: images.length / size}, (_, image) =>
      query.reduce((cosine, value, k) => cosine + value * images[image * size + k], 0));
  };
};
