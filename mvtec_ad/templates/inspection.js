// The buttons show the images of one verdict, or all.
const cards = document.querySelectorAll('article');
const show = () => {
  const wanted = document.querySelector('input:checked').value;
  for (const card of cards) card.hidden = wanted && card.dataset.verdict !== wanted;
};
document.querySelector('fieldset').addEventListener('change', show);
show();
